# shellcheck shell=bash
# Keys, people and programs of the machine, for the checks.

RUN=/run/portlatch-vm
mkdir -p "$RUN"
chmod 755 "$RUN"

# start_key NAME OPTION...: a key of this name, on a socket of its own.
start_key() {
    local name=$1
    shift
    systemd-run --quiet --unit="key-$name" -p "StandardError=append:$LOGS/key-$name.log" \
        virtual-key run --control "$RUN/key-$name" --name "Virtual key $name" "$@"
    until_true 20 test -S "$RUN/key-$name"
}

# key NAME WORD...
key() {
    local name=$1
    shift
    virtual-key tell "$RUN/key-$name" "$@"
}

# The device of a key that is plugged in.
device_of() {
    local uevent
    for uevent in /sys/class/hidraw/*/device/uevent; do
        if grep -qx "HID_NAME=Virtual key $1" "$uevent"; then
            uevent=${uevent#/sys/class/hidraw/}
            printf '/dev/%s\n' "${uevent%%/*}"
            return
        fi
    done
    return 1
}

# Waits until udev has given the key to the person at the screen.
ready() {
    until_true 20 device_of "$1" >/dev/null
    udevadm settle --timeout=30
}

# await NAME EVENT [SECONDS]
await() { key "$1" await "$2" "${3:-60}"; }

# Touches a key once it blinks.
touch_key() {
    await "$1" blinks
    key "$1" touch
}

# Touches a key twice: each time once it blinks.
touch_key_twice() {
    await "$1" blinks
    # What it does from now on is the second time.
    key "$1" mark
    key "$1" touch
    touch_key "$1"
}

# until_true SECONDS CMD...
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || { echo "waited in vain for: $*" >&2; return 1; }
        sleep 0.2
    done
}

# must_fail CMD...: errexit passes over a command behind `!`.
must_fail() {
    if "$@"; then
        echo "went well and should not have: $*" >&2
        return 1
    fi
}

# jerry CMD...: as the person at the screen.
jerry() { as jerry "$@"; }

# as USER CMD...
as() {
    local user=$1 uid
    shift
    uid=$(id -u "$user")
    runuser -u "$user" -- env HOME="/home/$user" USER="$user" XDG_RUNTIME_DIR="/run/user/$uid" \
        PATH="$PATH" LC_ALL="$LC_ALL" PORTLATCH_HOME="${PORTLATCH_HOME:-/home/$user/portlatch}" "$@"
}

# in_terminal OUTPUT [REGEX ANSWER]... -- CMD...: in a terminal of its own, where each answer is typed at its question.
in_terminal() { jerry python3 -I "$HERE/terminal.py" "$@"; }

# The session at the screen is in front, or behind another one.
to_front() { chvt 1 && until_true 20 is_seat Active=yes; }
to_back() { chvt 5 && until_true 20 is_seat Active=no; }

is_seat() {
    local session
    session=$(loginctl --no-legend list-sessions | awk '$3 == "jerry" && $4 == "seat0" { print $1; exit }')
    [[ -n $session ]] && loginctl show-session "$session" --property=Active | grep -qx "$1"
}

check_the_world_is_there() {
    modprobe uhid
    test -c /dev/uhid
    until_true 60 is_seat Active=yes
    test -d /run/user/1000
    portlatch --version
    fido2-token -V 2>&1 || true
}
