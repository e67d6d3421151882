# shellcheck shell=bash
# The company's servers, and the DNS that the hosts have without Portlatch. Sourced by scripts/lab.
#
#   10.0.0.5:5432       PostgreSQL, TLS and plain: database billing with the table invoices
#   10.0.0.5:6432-6439  peers of one behaviour each (peer.py says which); the same at 10.0.0.9
#   10.0.0.6:22         OpenSSH, for jerry's key
#   10.0.0.7:80, :8080  nginx; downloads and uploads (web.py); 10.0.0.8 the same
#   10.0.0.53           the company's DNS; 10.0.0.98 swallows packets; nobody has 10.0.0.99

start_servers() {
    start_dns
    start_postgres
    start_ssh
    start_web
    start_on company peer root python3 -I /opt/portlatch/lab/peer.py 10.0.0.5 10.0.0.9
    wait_until 20 PostgreSQL on_host company psql -h 10.0.0.5 -U postgres -c 'select 1'
    fill_postgres
    # shellcheck disable=SC2016 # the variable belongs to the inner shell
    wait_until 10 "the other servers" on_host company sh -euc '
        for port in 22 80 8080 6432 6439; do ss -Hltn "sport = :$port" | grep -q LISTEN; done'
    wait_until 10 "the hosts to see each other" on_host proxy python3 -I /opt/portlatch/lab/reach.py 10.0.0.5:5432 10.0.0.6:22
}

# The company's other names, at two servers: one for the proxy's host and the company, one that the user's machine has
# from its own network. Both know no name of a resource.
start_dns() {
    local host
    # shellcheck disable=SC2054 # the commas are dnsmasq's
    local -a names=(--keep-in-foreground --conf-file=/dev/null --no-hosts --no-resolv --pid-file= --log-queries
        --log-facility=- --bogus-priv --bind-interfaces --except-interface=lo --local-ttl=1 --user=root --group=root
        --local=/corp.internal/ --local=/example.com/
        --host-record=wiki.corp.internal,10.0.0.80
        --host-record=proxy.example.com,192.0.2.1
        --host-record=www.example.com,192.0.2.80
        --host-record=inside-the-range.corp.internal,198.18.0.5
        --host-record=loops.corp.internal,127.0.0.1)
    start_on proxy dns-user root dnsmasq "${names[@]}" --listen-address=192.0.2.53
    start_on company dns-company root dnsmasq "${names[@]}" --listen-address=10.0.0.53
    if [[ $(<"$LAB/resolver") == resolved ]]; then
        start_resolved
    else
        use_dns user
    fi
    for host in $(further_machines); do use_dns "$host"; done
    wait_until 10 "the user's DNS" on_host user getent ahostsv4 wiki.corp.internal
}

use_dns() {
    on_host "$1" sh -c 'printf "nameserver 192.0.2.53\noptions timeout:2 attempts:2\n" >/etc/resolv.conf'
}

# A real systemd-resolved on a real bus, without systemd, from the unpacked package.
start_resolved() {
    local resolved
    resolved=$(unpacked_resolved) || fail "systemd-resolved could not be fetched"
    cp -a "$resolved/." "$LAB/user/resolved"
    on_host user ln -s "$LAB/user/resolved/usr/bin/resolvectl" /opt/portlatch/bin/resolvectl
    # shellcheck disable=SC2016 # the variables belong to the inner shell
    on_host user sh -euc '
        getent group systemd-resolve >/dev/null || echo systemd-resolve:x:2053: >>/etc/group
        getent passwd systemd-resolve >/dev/null ||
            echo systemd-resolve:*:2053:2053::/run/systemd:/usr/sbin/nologin >>/etc/passwd
        install -d -m 755 /run/dbus /run/systemd
        install -d -m 755 -o systemd-resolve -g systemd-resolve /run/systemd/resolve
        mkdir -p /etc/systemd/resolved.conf.d
        printf "[Resolve]\nDNS=192.0.2.53\nLLMNR=no\nMulticastDNS=no\nCache=no\n" >/etc/systemd/resolved.conf.d/lab.conf
        printf "nameserver 127.0.0.53\noptions edns0\n" >/etc/resolv.conf'
    start_on user dbus root dbus-daemon --config-file=/opt/portlatch/lab/bus.conf --nofork --nopidfile
    wait_until 10 "the bus" on_host user test -S /run/dbus/system_bus_socket
    start_on user resolved root "$LAB/user/resolved/lib/systemd/systemd-resolved"
    wait_until 10 "systemd-resolved" on_host user dbus-send --system --print-reply \
        --dest=org.freedesktop.resolve1 /org/freedesktop/resolve1 org.freedesktop.DBus.Peer.Ping
}

start_postgres() {
    local data=$LAB/company/postgres bin
    bin=$(echo /usr/lib/postgresql/*/bin | tr ' ' '\n' | sort -V | tail -n 1)
    install -d -m 700 -o postgres -g postgres "$data"
    setpriv --reuid postgres --regid postgres --clear-groups env -i --chdir=/ PATH="$bin:/usr/bin:/bin" \
        "$bin/initdb" --pgdata "$data" --username postgres --auth trust --encoding UTF8 --no-locale --no-sync \
        >"$LAB/log/initdb" 2>&1 || fail "initdb failed"
    make_certificate "$LAB/company/postgres" billing-db.corp.internal
    chown postgres: "$data"/server.{key,crt}
    cp "$data/server.crt" "$LAB/user/billing-db.crt"
    chmod 644 "$LAB/user/billing-db.crt"
    printf 'host all all 10.0.0.0/24 trust\n' >"$data/pg_hba.conf"
    cat >>"$data/postgresql.conf" <<'CONF'
listen_addresses = '10.0.0.5'
unix_socket_directories = ''
ssl = on
fsync = off
max_connections = 300
log_connections = on
CONF
    start_process postgres nsenter --target "$(<"$LAB/pid/host-company")" --mount --net --ipc --uts -- \
        setpriv --reuid postgres --regid postgres --clear-groups env -i --chdir=/ PATH="$bin:/usr/bin:/bin" \
        "$bin/postgres" -D "$data"
}

fill_postgres() {
    on_host company psql -q -h 10.0.0.5 -U postgres -v ON_ERROR_STOP=1 \
        -c 'create role jerry superuser login' -c 'create role tom login' -c 'create database billing owner jerry'
    on_host company psql -q -h 10.0.0.5 -U jerry -d billing -v ON_ERROR_STOP=1 -c "
        create table invoices (id int primary key, customer text not null, cents int not null);
        insert into invoices values (1, 'Ada', 125000), (2, 'Grace', 98050), (3, 'Hedy', 4200);
        grant select on invoices to public"
}

# A self-signed certificate: make_certificate DIR HOST
make_certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$2" \
        -addext "subjectAltName=DNS:$2" -keyout "$1/server.key" -out "$1/server.crt" 2>/dev/null
    chmod 600 "$1/server.key"
}

start_ssh() {
    local dir=$LAB/company/ssh
    mkdir -m 755 "$dir"
    ssh-keygen -q -t ed25519 -N '' -C lab -f "$dir/host_key"
    ssh-keygen -q -t ed25519 -N '' -C jerry@user -f "$dir/jerry"
    # sshd trusts no file below a directory that others may write, as /tmp is.
    on_host company install -D -m 644 "$dir/jerry.pub" /etc/ssh/jerry_keys
    cat >"$dir/sshd_config" <<CONF
ListenAddress 10.0.0.6:22
HostKey $dir/host_key
AuthorizedKeysFile /etc/ssh/jerry_keys
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowUsers jerry
CONF
    on_host company install -d -m 755 /run/sshd
    start_on company sshd root /usr/sbin/sshd -D -e -f "$dir/sshd_config"
    # jerry's side: the key, and the host key under the name that he types.
    # shellcheck disable=SC2016 # the variables belong to the inner shell
    on_host user sh -euc '
        install -d -m 700 -o 2001 -g 2001 /home/jerry/.ssh
        install -m 600 -o 2001 -g 2001 "$1/jerry" /home/jerry/.ssh/id_ed25519
        printf "ssh.corp.internal %s\n" "$(cut -d" " -f1,2 "$1/host_key.pub")" >/home/jerry/.ssh/known_hosts
        chown 2001:2001 /home/jerry/.ssh/known_hosts' sh "$dir"
}

start_web() {
    local dir=$LAB/company/web
    mkdir -m 755 "$dir" "$dir/pages"
    echo 'The wiki of the company' >"$dir/pages/index.html"
    cat >"$dir/nginx.conf" <<CONF
daemon off;
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
    access_log off;
    client_max_body_size 0;
    server {
        listen 10.0.0.7:80;
        listen 10.0.0.8:80;
        root $dir/pages;
    }
}
CONF
    start_on company nginx root nginx -e stderr -c "$dir/nginx.conf"
    start_on company web root python3 -I /opt/portlatch/lab/web.py 10.0.0.7 10.0.0.8
}
