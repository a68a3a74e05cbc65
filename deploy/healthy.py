#!/usr/bin/env python3
"""Succeed if the server of this container answers at HEALTH_URL.

A container without a server, such as a single run's, sets no URL and is healthy.
"""

import os
from urllib.request import ProxyHandler, build_opener

if url := os.environ.get("HEALTH_URL"):
    build_opener(ProxyHandler({})).open(url, timeout=5).close()
