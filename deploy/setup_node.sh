#!/usr/bin/env bash
# Make the environment of requirements.lock in ~/pkdray-venv; run again, it does only what is missing.
# Usage: setup_node.sh [EXTRA_PACKAGE...]
set -euo pipefail
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$HOME/pkdray-venv"

# uv brings Python 3.11, that of the lock, whatever the image has.
if [ ! -x "$HOME/.local/bin/uv" ]; then
  curl --proto '=https' --tlsv1.2 -fsSL https://astral.sh/uv/install.sh | sh
fi
uv="$HOME/.local/bin/uv"
[ -x "$venv/bin/python" ] || "$uv" venv --python 3.11 "$venv"

# The stamp is the last thing written: an installation that was cut off is done again.
wanted="$(cat "$checkout/requirements.lock" "$checkout/pyproject.toml" <(printf '%s\n' "$@") | sha256sum)"
if [ "$(cat "$venv/.installed" 2>/dev/null || true)" != "$wanted" ]; then
  "$uv" pip install --python "$venv/bin/python" --requirement "$checkout/requirements.lock" "$@"
  "$uv" pip install --python "$venv/bin/python" --no-deps --editable "$checkout"
  echo "$wanted" >"$venv/.installed"
fi

[ ! -f "$HOME/.ray/auth_token" ] || chmod 600 "$HOME/.ray/auth_token"
# For `ray exec`, `ray attach` and whoever logs in.
for line in "export PATH=\"$venv/bin:\$PATH\"" "export RAY_AUTH_MODE=token" "export OMP_NUM_THREADS=1"; do
  grep -qxF "$line" "$HOME/.bashrc" 2>/dev/null || echo "$line" >>"$HOME/.bashrc"
done
