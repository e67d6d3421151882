# shellcheck shell=bash
# Servers that few tests need, started by name: scripts/lab serve NAME. Sourced by scripts/lab.
#
#   mysql    10.0.0.5:3306   MariaDB: database billing with the table invoices, for jerry without a password
#   kube     10.0.0.5:6443   a Kubernetes API of one pod, over TLS; jerry's kubeconfig names kube.corp.internal
#   desktop  10.0.0.5:3389   FreeRDP's shadow server with NLA, for alice / Corp-Pass-1, on a virtual screen

serve() {
    case ${1:-} in
    mysql) need_packages "${PACKAGES_OF_MYSQL[@]}" && start_mysql ;;
    kube) need_kubectl && start_kube ;;
    desktop) need_packages "${PACKAGES_OF_DESKTOP[@]}" && start_desktop ;;
    *) fail "no server ${1:-}: mysql, kube or desktop" ;;
    esac
}

listens() {
    # shellcheck disable=SC2016 # $1 belongs to the inner shell
    on_host company sh -euc 'ss -Hltn "sport = :$1" | grep -q LISTEN' sh "$1"
}

start_mysql() {
    local data=$LAB/company/mysql
    install -d -m 700 -o www-data -g www-data "$data"
    on_host company mariadb-install-db --no-defaults --datadir="$data" --user=www-data --auth-root-authentication-method=normal \
        --skip-test-db >"$LAB/log/mariadb-install" 2>&1 || fail "mariadb-install-db failed"
    start_on company mysql root mariadbd --no-defaults --datadir="$data" --user=www-data --socket="$data/socket" \
        --bind-address=10.0.0.5 --port=3306 --pid-file="$data/pid" --skip-name-resolve
    wait_until 45 MariaDB on_host company mariadb --no-defaults --socket="$data/socket" --user=root -e 'select 1'
    on_host company mariadb --no-defaults --socket="$data/socket" --user=root -e "
        create user jerry@'%'; create database billing; grant all on billing.* to jerry@'%';
        create table billing.invoices (id int primary key, customer varchar(40));
        insert into billing.invoices values (1, 'Ada'), (2, 'Grace'), (3, 'Hedy')"
}

start_kube() {
    local dir=$LAB/company/kube
    mkdir -m 755 "$dir"
    make_certificate "$dir" kube.corp.internal
    start_on company kube root python3 -I /opt/portlatch/lab/kube.py 10.0.0.5 6443 "$dir/server.crt" "$dir/server.key"
    wait_until 30 "the Kubernetes API" listens 6443
    # shellcheck disable=SC2016 # the variables belong to the inner shell
    on_host user sh -euc '
        install -d -m 700 -o 2001 -g 2001 /home/jerry/.kube
        cat >/home/jerry/.kube/config <<CONFIG
apiVersion: v1
kind: Config
current-context: lab
clusters: [{name: lab, cluster: {server: "https://kube.corp.internal:6443",
    certificate-authority-data: $(base64 -w0 <"$1/server.crt")}}]
users: [{name: jerry, user: {token: a-token-of-the-lab}}]
contexts: [{name: lab, context: {cluster: lab, user: jerry, namespace: default}}]
CONFIG
        chown 2001:2001 /home/jerry/.kube/config' sh "$dir"
}

start_desktop() {
    local dir=$LAB/company/desktop
    mkdir -m 755 "$dir"
    on_host company winpr-hash -u alice -p Corp-Pass-1 -f sam >"$dir/sam"
    # Sockets of displays stand in the file system that the hosts share: each host has its own number.
    # Without -noreset a screen begins anew when its last client leaves, and the next one finds nobody meanwhile.
    start_on company screen root Xvfb :98 -screen 0 800x600x24 -nolisten tcp -noreset
    start_on user screen-user root Xvfb :97 -screen 0 1024x768x24 -nolisten tcp -noreset -ac
    wait_until 30 "the desktop's screen" on_host company env DISPLAY=:98 xwininfo -root
    wait_until 30 "the user's screen" on_host user env DISPLAY=:97 xwininfo -root
    start_on company desktop root env HOME="$dir" DISPLAY=:98 freerdp-shadow-cli /bind-address:10.0.0.5 /port:3389 \
        /sec:nla "/sam-file:$dir/sam" +auth
    wait_until 45 "the desktop" listens 3389
}
