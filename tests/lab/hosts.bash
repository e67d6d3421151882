# shellcheck shell=bash
# The lab's hosts: their namespaces, the wires between them, and how commands run there. Sourced by scripts/lab, which
# sets LAB (the directory), LAB_FILES (this one), WIRE (the program between two of them, or nothing) and fail.

LAB_PATH=/opt/portlatch/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Waits until a command succeeds: $1 seconds at most, then it says what it waited for ($2).
wait_until() {
    local limit=$1 what=$2 deadline
    shift 2
    deadline=$((SECONDS + limit))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "waited $limit s for $what"
        sleep 0.02
    done
}

# Starts a process that outlives this script: $1 names its log and its pid file. STDIN may name a FIFO that it reads; it
# is opened both ways, so that it never ends.
start_process() {
    local name=$1
    shift
    setsid "$@" <>"${STDIN:-/dev/null}" >>"$LAB/log/$name" 2>&1 &
    printf '%s\n' $! >"$LAB/pid/$name"
    disown
}

# Sets COMMAND to the command line that runs CMD on a host, as a user with a login's environment:
# command_on HOST USER CMD...
command_on() {
    local host=$1 user=$2 uid home=/home/$2
    local -a settings=()
    shift 2
    if [[ -e $LAB/clock ]]; then settings+=(PORTLATCH_CLOCK_OFFSET="$LAB/clock"); fi
    if [[ -n ${RUST_LOG:-} ]]; then settings+=(RUST_LOG="$RUST_LOG"); fi
    if [[ -n ${PORTLATCH_LOG:-} ]]; then settings+=(PORTLATCH_LOG="$PORTLATCH_LOG"); fi
    case $user in
    root) uid=0 home=/run/root ;;
    jerry) uid=2001 ;;
    tom) uid=2002 ;;
    *) fail "no user $user: root, jerry or tom" ;;
    esac
    COMMAND=(nsenter --target "$(<"$LAB/pid/host-$host")" --mount --net --ipc --uts --
        setpriv --reuid "$uid" --regid "$uid" --clear-groups
        env -i --chdir="$home" HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/bash PATH="$LAB_PATH" LANG=C.UTF-8
        TERM="${TERM:-dumb}" XDG_RUNTIME_DIR="/run/user/$uid" "${settings[@]}" "$@")
}

# Runs CMD on a host as root: on_host HOST CMD...
on_host() {
    local -a COMMAND
    local host=$1
    shift
    command_on "$host" root "$@"
    "${COMMAND[@]}"
}

# Starts CMD on a host as a user and leaves it running: start_on HOST NAME USER CMD...
start_on() {
    local -a COMMAND
    local host=$1 name=$2 user=$3
    shift 3
    command_on "$host" "$user" "$@"
    start_process "$name" "${COMMAND[@]}"
}

# run_on HOST [--user NAME] -- CMD...
run_on() {
    local host=${1:?a host is needed} user=root
    local -a COMMAND
    shift
    [[ -e $LAB/pid/host-$host ]] || fail "no host $host: user, proxy or company"
    if [[ ${1:-} == --user ]]; then
        user=${2:?--user needs a name}
        shift 2
    fi
    if [[ ${1:-} == -- ]]; then shift; fi
    (($# > 0)) || fail "a command is needed"
    command_on "$host" "$user" "$@"
    exec "${COMMAND[@]}"
}

# The machines of users beside the first: user2 and so on, as many as the lab was made with.
further_machines() {
    local number last
    last=$(<"$LAB/machines")
    for ((number = 2; number <= last; number++)); do printf 'user%s\n' "$number"; done
}

# What a process is called on a user's machine: the first machine's have the plain names.
name_on() {
    if [[ $1 == user ]]; then printf '%s\n' "$2"; else printf '%s-%s\n' "$2" "$1"; fi
}

make_hosts() {
    local host
    local -a hosts
    mapfile -t hosts < <(further_machines)
    hosts+=(user proxy company)
    for host in "${hosts[@]}"; do
        mkdir -m 711 "$LAB/$host"
        start_process "host-$host" unshare --mount --net --ipc --uts --propagation private -- \
            "$LAB_FILES/host" "$host" "$LAB" "$LAB_FILES"
    done
    for host in "${hosts[@]}"; do
        wait_until 10 "host $host" test -e "$LAB/$host/ready"
    done
    wire_hosts
    for host in $(further_machines); do wire_further "$host"; done
}

# The wires are made inside the hosts: the machine's own network never sees them.
wire_hosts() {
    local proxy
    proxy=$(<"$LAB/pid/host-proxy")
    if [[ -n $WIRE ]]; then
        start_wire user eth0
    else
        on_host user ip link add eth0 type veth peer name eth0 netns "$proxy"
    fi
    on_host company ip link add eth0 type veth peer name eth1 netns "$proxy"
    # shellcheck disable=SC2016 # $0 and $1 belong to the inner shell
    on_host proxy sh -euc '
        # A fresh namespace takes over the machine'\''s forwarding, which may be on.
        sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
        ip address add 192.0.2.1/24 dev eth0
        ip address add 192.0.2.53/24 dev eth0
        ip address add 10.0.0.1/24 dev eth1
        ip link set eth0 up
        ip link set eth1 up
        echo nameserver 10.0.0.53 >/etc/resolv.conf'
    # The default route is a trap: what must not leave the machine would arrive at the proxy host, where tests look.
    on_host user sh -euc '
        sysctl -qw net.ipv4.ip_forward=0
        ip address add 192.0.2.10/24 dev eth0
        ip link set eth0 up
        ip route add default via 192.0.2.1'
    # shellcheck disable=SC2016 # the variables belong to the inner shell
    on_host company sh -euc '
        sysctl -qw net.ipv4.ip_forward=0
        for last in 5 6 7 8 9 53 98; do ip address add 10.0.0.$last/24 dev eth0; done
        ip link set eth0 up
        echo nameserver 10.0.0.53 >/etc/resolv.conf
        nft add table inet lab
        nft add chain inet lab input "{ type filter hook input priority 0; }"
        nft add counter inet lab dials
        nft add rule inet lab input ip saddr 10.0.0.1 tcp flags "&" "(syn|ack)" == syn counter name dials
        nft add rule inet lab input ip daddr 10.0.0.98 drop'
}

# Another machine of a user's has a way of its own to the proxy, which ends there in an interface of the machine's name.
wire_further() {
    local host=$1 address=192.0.2.$((9 + ${1#user}))
    if [[ -n $WIRE ]]; then
        start_wire "$host" "$host"
    else
        on_host "$host" ip link add "$host" type veth peer name "$host" netns "$(<"$LAB/pid/host-proxy")"
    fi
    # shellcheck disable=SC2016 # the variables belong to the inner shells
    on_host proxy sh -euc '
        ip link set "$1" up
        ip route add "$2" dev "$1" src 192.0.2.1' sh "$host" "$address"
    # shellcheck disable=SC2016
    on_host "$host" sh -euc '
        sysctl -qw net.ipv4.ip_forward=0
        ip address add "$2/24" dev "$1"
        ip link set "$1" up
        ip route add default via 192.0.2.1' sh "$host" "$address"
}

# The wire between a user's machine and the proxy as a program that takes orders at wire.orders, for another machine at
# wire-HOST.orders (tests/src/wire/between.rs): start_wire HOST INTERFACE
start_wire() {
    local name proxy
    name=$(name_on "$1" wire) proxy=$(<"$LAB/pid/host-proxy")
    [[ -e $LAB/wire ]] || ln -L "$WIRE" "$LAB/wire" 2>/dev/null || cp "$WIRE" "$LAB/wire"
    start_on "$1" "$name" root "$LAB/wire" --name "$2" --far "/proc/$proxy/ns/net" --orders "$LAB/$name.orders"
    wait_until 10 "the wire" test -S "$LAB/$name.orders"
    # What hosts do where a way swallows large packets: control is reached by the kernel's own TCP.
    on_host "$1" sysctl -qw net.ipv4.tcp_mtu_probing=1
    on_host proxy sysctl -qw net.ipv4.tcp_mtu_probing=1
}

# The processes that have this lab's mount: found by it whatever became of the pid files.
lab_processes() {
    local file
    for file in /proc/[0-9]*/mountinfo; do
        if grep -qsF " portlatch-lab:$LAB " "$file"; then
            file=${file#/proc/}
            printf '%s\n' "${file%/mountinfo}"
        fi
    done
}

end_processes() {
    local deadline=$((SECONDS + 10)) pid
    local -a pids
    # A holder that has not made its mount yet is known by its pid file alone.
    for pid in "$LAB"/pid/host-*; do
        [[ -e $pid ]] || continue
        pid=$(<"$pid")
        if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF " $LAB "; then kill -KILL "$pid" 2>/dev/null || true; fi
    done
    while mapfile -t pids < <(lab_processes) && ((${#pids[@]} > 0)); do
        kill -KILL "${pids[@]}" 2>/dev/null || true
        ((SECONDS < deadline)) || fail "these processes of the lab do not end: ${pids[*]}"
        sleep 0.02
    done
}
