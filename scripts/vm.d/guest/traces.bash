# shellcheck shell=bash
# What is left when all is done.

check_90_the_agent_has_let_go_of_every_key() {
    local agent
    agent=$(systemctl show --property=MainPID --value agent)
    until_true 60 bash -c "! ls -l /proc/$agent/fd | grep hidraw"
    until_true 60 bash -c "! grep -qx security-key /proc/$agent/task/*/comm"
}

check_91_no_log_holds_a_pin_or_a_password() {
    # The keys' own command lines say it, which is no fault of the programs that are tried.
    journalctl --no-pager | grep -v 'virtual-key run' >"$RUN/journal"
    must_fail grep -raF -e "$PIN" -e 0000-wrong -e "$PASSWORD" "$LOGS"/*.log "$PROXY_DIR/audit" /home/jerry/portlatch "$RUN/journal"
    systemctl is-active agent daemon proxy
}
