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
    until_true 60 test -S "$RUN/key-$name"
}

# plugged_in NAME: a key of this name that may be there already.
plugged_in() {
    if [[ -S $RUN/key-$1 ]]; then key "$1" plug; else start_key "$1"; fi
    ready "$1"
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
    until_true 60 device_of "$1" >/dev/null
    udevadm settle --timeout=60
}

# Waits until a key that was just put in takes nothing as touched any more: only the agent leaves it alone by itself.
settled() { until_true 60 key "$1" is-settled; }

# has_seen NAME EVENT TIMES: since the last mark.
has_seen() { (($(key "$1" count "$2") >= $3)); }

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

# until_true SECONDS CMD...: without a trace of each try.
until_true() {
    local deadline=$((SECONDS + $1)) options=$- status=0
    shift
    set +x
    until "$@"; do
        if ((SECONDS >= deadline)); then
            echo "waited in vain for: $*" >&2
            status=1
            break
        fi
        sleep 0.2
    done
    if [[ $options == *x* ]]; then set -x; fi
    return "$status"
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
to_front() { chvt 1 && until_true 60 is_seat Active=yes; }
to_back() { chvt 5 && until_true 60 is_seat Active=no; }

is_seat() {
    local session
    session=$(loginctl --no-legend list-sessions | awk '$3 == "jerry" && $4 == "seat0" { print $1; exit }')
    [[ -n $session ]] && loginctl show-session "$session" --property=Active | grep -qx "$1"
}

# What a reader wants to know of a check that failed.
scene() {
    local socket
    for socket in "$RUN"/key-*; do
        [[ -S $socket ]] || continue
        printf 'key %s: ... %s\n' "${socket##*/key-}" "$(virtual-key tell "$socket" record | tail -c 150)"
    done
    if [[ -e $LOGS/agent.log ]]; then
        echo 'the agent:'
        grep -av 'no notification server' "$LOGS/agent.log" | tail -n 8
    fi
}

# What a check that failed has left does no harm to the next: its programs, faults of keys, keys that are in or out, and
# the agent's prompts and rests.
mend() {
    local socket word
    pkill -u jerry -f /dev/tcp || true
    pkill -u jerry -f '^portlatch (tap|watch|login|mfa)' || true
    pkill '^fido2-' || true
    for socket in "$RUN"/key-*; do
        [[ -S $socket ]] || continue
        for word in 'fault none' 'always-verifies no' 'touched-by person' 'touch-time 30'; do
            virtual-key tell "$socket" "$word"
        done
        # The keys that libfido2 is tried with stay where they are.
        if [[ -S $RUN/key-first ]]; then virtual-key tell "$socket" unplug; fi
    done
    to_front
    if [[ -S $RUN/key-first ]]; then plugged_in first; fi
    if systemctl --quiet is-active agent; then restart_agent; fi
}

check_the_world_is_there() {
    modprobe uhid
    test -c /dev/uhid
    until_true 60 is_seat Active=yes
    test -d /run/user/1000
    portlatch --version
    fido2-token -V 2>&1 || true
}
