"""The page's scripts as far as they need no page, by node's own test runner: every *.test.mjs beside this file."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NO_NODE = "node was not found, which runs the tests of web/*.js; install it, for example: apt-get install nodejs"


def test_scripts_of_the_page_pass_their_tests():
    node = shutil.which("node")
    if not node:
        pytest.fail(NO_NODE)
    files = sorted(str(path) for path in HERE.glob("*.test.mjs"))
    assert files
    # a runner inside a runner would report to the outer one only
    env = {name: value for name, value in os.environ.items() if not name.startswith("NODE_TEST")}
    done = subprocess.run(
        [node, "--test", *files], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
