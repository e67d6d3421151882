# shellcheck shell=bash
# Portlatch on the lab's hosts, set up as an administrator and two users would. Sourced by scripts/lab.

# What the users type at their first login.
LAB_PASSWORD='a password of the lab'
PROXY_URL=https://proxy.example.com

portlatch_usage() {
    cat <<'TEXT'
usage: scripts/lab portlatch up [--dir DIR] [--bin DIR] [--software-key auto|enter|never] [--users jerry,tom]
--bin           where portlatch, portlatchd and portlatch-proxy are (PORTLATCH_BIN_DIR, or CARGO_TARGET_DIR's debug)
--software-key  how the agents' keys answer a prompt; with enter, by a line in DIR/user/NAME.enter
--users         who logs in; of the users that exist, jerry has access-dev and access-prod, tom access-dev
On each of the users' machines beside the first, jerry's account has a login of its own, as the user jerry-user2 and so on.
TEXT
}

portlatch_up() {
    local bin=${PORTLATCH_BIN_DIR:-} key=auto users=jerry,tom user pin host process
    local -a joining=()
    while (($# > 0)); do
        case $1 in
        --bin) bin=${2:?} ;;
        --software-key) key=${2:?} ;;
        --users) users=${2?} ;;
        --help)
            portlatch_usage
            return
            ;;
        *) fail "unknown option $1" ;;
        esac
        shift 2
    done
    if [[ -z $bin ]]; then
        choose_target_dir
        bin=$CARGO_TARGET_DIR/debug
    fi
    # shellcheck disable=SC2154 # assigned by the trap itself
    trap 'status=$?; trap - EXIT; ((status == 0)) || show_logs >&2; exit "$status"' EXIT
    install_programs "$bin"
    pin=$(init_proxy)
    printf '%s\n' "$pin" >"$LAB/ca-pin"
    start_proxy
    administer apply -f /opt/portlatch/lab/resources.yaml >>"$LAB/log/apply"
    add_user jerry access-dev,access-prod
    add_user tom access-dev
    for host in $(further_machines); do
        join_machine "$host" "$key" &
        joining+=($!)
    done
    trust_cluster user
    start_daemon user
    for user in ${users//,/ }; do
        enrol user "$user" "$user"
        start_agent user "$user" "$key"
    done
    for user in ${users//,/ }; do
        wait_until 20 "$user's login to serve" attached user "$user"
    done
    for process in "${joining[@]}"; do wait "$process" || fail "a machine could not join"; done
}

# One more machine, and jerry's login on it.
join_machine() {
    local host=$1 key=$2
    add_user "jerry-$host" access-dev,access-prod
    trust_cluster "$host"
    start_daemon "$host"
    enrol "$host" jerry "jerry-$host"
    start_agent "$host" jerry "$key"
    wait_until 60 "the login on $host to serve" attached "$host" jerry
}

# Starts one part again as its service manager would, after it ended.
portlatch_start() {
    case ${1:-} in
    proxy) start_proxy ;;
    daemon) start_daemon user ;;
    agent) start_agent user "${2:?a user is needed}" "${3:?how the key answers is needed}" ;;
    *) fail "no part ${1:-}: proxy, daemon or agent" ;;
    esac
}

# The programs stand on the hosts' PATH, where ordinary users may run them: whatever a later build does, a lab keeps
# those that it began with.
install_programs() {
    local host program
    local -a hosts
    mapfile -t hosts < <(further_machines)
    mkdir -m 755 "$LAB/bin"
    for program in portlatch portlatchd portlatch-proxy; do
        [[ -x $1/$program ]] || fail "$1/$program is missing: cargo build --workspace --features software-key,test-clock"
        ln -L "$1/$program" "$LAB/bin/" 2>/dev/null || cp "$1/$program" "$LAB/bin/"
        for host in user proxy company "${hosts[@]}"; do
            on_host "$host" ln -s "$LAB/bin/$program" /opt/portlatch/bin/
        done
    done
}

administer() {
    on_host proxy portlatch-proxy "$@" --dir "$LAB/proxy/portlatch"
}

# A member of a JSON object on standard input.
json_member() {
    python3 -Ic 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

init_proxy() {
    administer init --public-host proxy.example.com --json | json_member ca_pin
}

start_proxy() {
    start_on proxy portlatch-proxy root portlatch-proxy run --dir "$LAB/proxy/portlatch"
    wait_until 30 "the proxy" administer get role
}

add_user() {
    administer users add "$1" --roles "$2" --json | json_member token >"$LAB/$1.token"
}

# trust_cluster HOST
trust_cluster() {
    # shellcheck disable=SC2016 # the variables belong to the inner shell
    on_host "$1" sh -euc '
        mkdir -p /etc/portlatch
        printf "dns = \"%s\"\n" "$1" >/etc/portlatch/daemon.toml' sh "$(<"$LAB/resolver")"
    on_host "$1" portlatchd trust "$PROXY_URL" --ca-pin "$(<"$LAB/ca-pin")" --zone corp.internal >>"$LAB/log/trust" 2>&1
}

# start_daemon HOST
start_daemon() {
    # A killed daemon's socket is no sign of the new one.
    on_host "$1" rm -f /run/portlatch/daemon.sock
    start_on "$1" "$(name_on "$1" portlatchd)" root portlatchd run
    wait_until 30 "the daemon" on_host "$1" test -S /run/portlatch/daemon.sock
}

# enrol HOST ACCOUNT USER
enrol() {
    local -a COMMAND
    command_on "$1" "$2" portlatch login --proxy "$PROXY_URL" --user "$3" --enrol "$(<"$LAB/$3.token")" \
        --ca-pin "$(<"$LAB/ca-pin")" --software-key auto --password-stdin
    "${COMMAND[@]}" <<<"$LAB_PASSWORD" >>"$LAB/log/login-$3" 2>&1 || fail "$3 could not log in"
}

# start_agent HOST ACCOUNT MODE; a line written to HOST/ACCOUNT.enter is the Enter key in the agent's terminal.
start_agent() {
    local enter=$LAB/$1/$2.enter
    [[ -p $enter ]] || mkfifo "$enter"
    STDIN=$enter start_on "$1" "$(name_on "$1" "agent-$2")" "$2" portlatch agent --software-key "$3"
}

# attached HOST ACCOUNT
attached() {
    local -a COMMAND
    command_on "$1" "$2" portlatch status --json
    "${COMMAND[@]}" | python3 -Ic '
import json, sys
status = json.load(sys.stdin)
sys.exit(not (status["agent"] and status["daemon"] and status["user"]))'
}
