#!/usr/bin/env python3
"""Whether the server of this container answers: end well if it does at HEALTH_URL.

A container that serves nobody, such as that of a single run, names no URL, and is well.
"""

import os
from urllib.request import ProxyHandler, build_opener

if url := os.environ.get("HEALTH_URL"):
    build_opener(ProxyHandler({})).open(url, timeout=5).close()
