"""The certificates that an operator makes by the commands of deploy/certificates.md."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.support.needs import lacking
from tests.support.paths import ROOT

PAGE = (ROOT / "deploy" / "certificates.md").read_text()


def make_certificates(folder: Path, days: int = 90) -> Path:
    """Run the commands of the page in a folder, and return the folder ``tls`` that they make.

    The test is skipped where there is no openssl.
    """
    if shutil.which("openssl") is None:
        lacking("openssl", "there is none on this machine")
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    folder.mkdir(parents=True, exist_ok=True)
    command = ["sh", "-euc", commands.replace("-days 90", f"-days {days}")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "tls"
