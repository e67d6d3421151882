# shellcheck shell=bash
# Portlatch on this one machine: proxy with control, daemon, and jerry's agent, as their administrators and jerry would set
# them up. The company is an address of the machine's own.

PROXY=proxy.example.com:8443
PROXY_DIR=/var/lib/portlatch-proxy
PASSWORD='a password of the machine'
# jerry's keys have it, and no log may.
PIN=7302-geheim

administer() { portlatch-proxy "$@" --dir "$PROXY_DIR"; }

# A member of a JSON object on standard input.
member() { python3 -Ic 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# log_in USER OPTION...: as jerry, at the terminal of a person or without one.
login_command() {
    LOGIN=(portlatch login --native --proxy "https://$PROXY" --ca-pin "$(<"$RUN/ca-pin")" --user "$@")
}

# The line of jerry's agent that matches, among those behind the last mark.
agent_mark() { wc -c <"$LOGS/agent.log" >"$RUN/agent.mark"; }
agent_said() { tail -c "+$(($(<"$RUN/agent.mark") + 1))" "$LOGS/agent.log" | grep -aqE "$1"; }
agent_says() { until_true "${2:-60}" agent_said "$1"; }

# start_agent [PINENTRY]: with this pinentry, or with none where that is empty.
# shellcheck disable=SC2120 # others pass it
start_agent() {
    # The terminal on which pinentry asks: a real one that nobody looks at.
    chown jerry /dev/tty6
    systemd-run --quiet --unit=agent --uid=jerry -p "StandardOutput=append:$LOGS/agent.log" \
        -p "StandardError=append:$LOGS/agent.log" --setenv=HOME=/home/jerry --setenv=XDG_RUNTIME_DIR=/run/user/1000 \
        --setenv=PORTLATCH_HOME=/home/jerry/portlatch --setenv=PATH="$PATH" --setenv=PORTLATCH_LOG=debug \
        --setenv=PORTLATCH_PINENTRY="${1-pinentry-tty}" --setenv=GPG_TTY=/dev/tty6 --setenv=TERM=linux \
        portlatch agent
}

# restart_agent [PINENTRY]
restart_agent() {
    systemctl stop agent
    start_agent "$@"
    until_true 60 is_attached
}

is_attached() {
    jerry portlatch status --json | python3 -Ic '
import json, sys
status = json.load(sys.stdin)
sys.exit(not (status["agent"] and status["daemon"] and status["user"]))'
}

# reach NAME PORT FILE: a program of jerry's that connects and reads a line, in the background; its number is PROGRAM. A
# connection that is lost is tried again, as a person would: this machine may be too slow for a time limit at any moment.
reach() { run_program 3 "$@"; }

# The same, giving up at the first no.
reach_once() { run_program 1 "$@"; }

run_program() {
    # shellcheck disable=SC2016 # the variables belong to the inner shell
    jerry timeout 150 bash -c '
        for ((try = 0; try < $1; try++)); do
            if { exec 3<>"/dev/tcp/$2/$3" && read -r line <&3; }; then echo "$line"; exit; fi
            sleep 1
        done
        exit 1' bash "$1" "$2.corp.internal" "$3" >"$4" 2>&1 &
    PROGRAM=$!
}

# The program that was begun last got through.
got_through() {
    wait "$PROGRAM"
    grep -qx "hello from $2" "$1"
}

# The newest record of an event in the audit.
audited() { administer audit tail --lines 1000 | grep -a "\"event\":\"$1\"" | tail -n 1; }

check_20_setup_portlatch_serves() {
    ip address add 192.0.2.1/32 dev lo
    ip address add 192.0.2.7/32 dev lo
    echo '192.0.2.1 proxy.example.com' >>/etc/hosts
    systemd-run --quiet --unit=company python3 -I "$HERE/company.py" 192.0.2.7 8000-8039 8100-8109 9000-9019
    administer init --public-host "$PROXY" --json | member ca_pin >"$RUN/ca-pin"
    systemd-run --quiet --unit=proxy -p "StandardError=append:$LOGS/proxy.log" -p "StandardOutput=append:$LOGS/proxy.log" \
        portlatch-proxy run --dir "$PROXY_DIR"
    until_true 60 administer get role
    administer apply -f "$HERE/resources.yaml"
    mkdir -p /etc/portlatch
    echo 'dns = "resolved"' >/etc/portlatch/daemon.toml
    portlatchd trust "https://$PROXY" --ca-pin "$(<"$RUN/ca-pin")" --zone corp.internal
    systemd-run --quiet --unit=daemon -p "StandardError=append:$LOGS/daemon.log" -p "StandardOutput=append:$LOGS/daemon.log" \
        portlatchd run
    until_true 60 test -S /run/portlatch/daemon.sock
}

# new_user NAME: prints the token of the first login.
new_user() { administer users add "$1" --roles staff --json | member token; }

check_21_setup_a_key_is_enrolled_with_a_touch() {
    local token enrolling
    # It takes whatever it is asked in its first seconds as touched: nobody may ask it then.
    start_key first --pin "$PIN" --fresh 2.5
    ready first
    key first mark
    token=$(new_user jerry)
    login_command jerry --enrol "$token" --password-stdin
    jerry "${LOGIN[@]}" <<<"$PASSWORD" >"$LOGS/enrol.log" 2>&1 &
    enrolling=$!
    await first blinks
    test "$(key first count touched)" = 0
    key first touch
    wait "$enrolling"
    grep 'Logged in to proxy.example.com as jerry' "$LOGS/enrol.log"
    # The tap was enough: no PIN was asked for.
    test "$(key first count pin-right)" = 0
}

check_22_setup_the_agent_attaches() {
    # shellcheck disable=SC2119 # it has no arguments of its own
    start_agent
    until_true 60 is_attached
}

check_23_a_login_takes_password_and_touch() {
    local login_in
    key first mark
    login_command jerry --password-stdin
    jerry "${LOGIN[@]}" <<<"$PASSWORD" >"$RUN/login" 2>&1 &
    login_in=$!
    touch_key first
    wait "$login_in"
    until_true 60 is_attached
    audited login | grep -q '"user":"jerry"'
    audited mfa.ok | grep -q '"key_id":'
}
