#!/bin/sh
# Makes the virtual environment; does nothing where it is up to date.
set -eu
cd "$(dirname "$0")"
if cmp -s requirements.txt .venv/requirements.txt; then
    exit 0
fi
echo "recommendations: installs $(wc -l < requirements.txt) packages into .venv"
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
cp requirements.txt .venv/requirements.txt
