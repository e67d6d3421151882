# shellcheck shell=bash
# What the agent does with keys, seen from the outside: the program's fate, the agent's words, the key's own record.

check_30_a_program_waits_for_the_touch_and_gets_through() {
    key first mark
    agent_mark
    reach desk 8000 "$RUN/30"
    agent_says 'Tap your security key: desk \(desk.corp.internal:8000\) for .*, pid [0-9]+ - '
    await first blinks
    test ! -s "$RUN/30"
    key first touch
    got_through "$RUN/30" 8000
    test "$(key first count assertion)" = 1
    audited mfa.ok | grep -q '"key_id":'
}

check_31_the_touch_serves_the_next_connection() {
    key first mark
    reach desk 8000 "$RUN/31"
    got_through "$RUN/31" 8000
    test "$(key first count blinks)" = 0
}

check_32_a_no_on_the_key_refuses_the_program() {
    key first mark
    reach_once door 8100 "$RUN/32"
    await first blinks
    key first deny
    must_fail wait "$PROGRAM"
    grep -qi 'connection refused\|connection reset' "$RUN/32"
    jerry portlatch status --json | tr -d ' ' | grep -q '"reason":"denied"'
}

check_33_of_two_keys_the_wrong_one_is_named_and_the_right_one_opens() {
    key first mark
    start_key second
    ready second
    sleep 4
    agent_mark
    reach desk 8001 "$RUN/33"
    touch_key second
    agent_says 'That security key is not enrolled for you: tap the other one'
    touch_key first
    got_through "$RUN/33" 8001
    test "$(key second count assertion)" = 0
}

check_34_the_loser_of_two_keys_stops_blinking() {
    key first mark
    key second mark
    reach desk 8002 "$RUN/34"
    await second blinks
    touch_key first
    got_through "$RUN/34" 8002
    await second cancelled 20
    key second unplug
}

check_35_without_a_key_one_is_asked_for_and_a_fresh_one_is_not_touched_by_itself() {
    local plugged
    key first unplug
    key first mark
    agent_mark
    reach desk 8003 "$RUN/35"
    agent_says 'Plug in your security key'
    plugged=$(date +%s%N)
    key first plug
    await first blinks
    # The agent leaves a key alone for 3 s; this one would take anything as touched for 2.5 s.
    (($(date +%s%N) - plugged >= 2900000000))
    test "$(key first count touched)" = 0
    key first touch
    got_through "$RUN/35" 8003
}

check_36_a_key_that_is_taken_out_while_it_blinks_may_come_back() {
    key first mark
    agent_mark
    reach desk 8004 "$RUN/36"
    await first blinks
    key first unplug
    agent_says 'Plug in your security key'
    key first plug
    key first mark
    touch_key first
    got_through "$RUN/36" 8004
}

check_37_a_tap_that_is_called_off_stops_the_blinking() {
    local tap
    key first mark
    as jerry portlatch tap desk.corp.internal:8005 >"$RUN/37" 2>&1 &
    tap=$!
    await first blinks
    pkill -INT -f '^portlatch tap desk.corp.internal:8005'
    wait "$tap" || true
    await first cancelled 20
    test "$(key first count touched)" = 0
}

# on_screen REGEX: waits for it on the terminal on which pinentry asks.
shows() { python3 -I "$HERE/vt.py" 6 screen | grep -qE "$1"; }
on_screen() { until_true "${2:-60}" shows "$1"; }
type_there() { python3 -I "$HERE/vt.py" 6 type "$1"; }

check_40_a_resource_that_demands_it_has_the_pin_asked_by_pinentry_and_a_wrong_one_counted() {
    key first mark
    reach vault 9000 "$RUN/40"
    on_screen 'to open vault, port 9000 \(8 tries left\)'
    type_there 0000-wrong
    on_screen 'That was the wrong PIN'
    on_screen '\(7 tries left\)'
    # It was tried once, and nothing is tried by itself.
    test "$(key first count pin-wrong)" = 1
    type_there "$PIN"
    await first pin-right
    touch_key first
    got_through "$RUN/40" 9000
    test "$(key first count pin-wrong) $(key first count pin-right)" = '1 1'
    audited mfa.ok | grep -q '"uv":true'
    audited mfa.ok | grep -q '"pin"'
}

check_41_a_key_that_always_verifies_gets_its_pin_for_a_bare_tap() {
    key first mark
    key first always-verifies yes
    reach desk 8006 "$RUN/41"
    on_screen 'to open desk, port 8006 \(8 tries left\)'
    type_there "$PIN"
    touch_key first
    got_through "$RUN/41" 8006
    key first always-verifies no
}

check_42_a_seat_that_is_not_active_is_explained_and_serves_again() {
    local device
    device=$(device_of first)
    to_back
    until_true 20 bash -c "! runuser -u jerry -- test -r $device"
    key first mark
    agent_mark
    reach desk 8007 "$RUN/42"
    agent_says "No access to the security key at $device: your seat is not active: another session is in front"
    to_front
    touch_key first
    got_through "$RUN/42" 8007
}

check_43_who_does_not_sit_at_the_machine_is_told_so() {
    login_command jerry --password-stdin
    must_fail as tom "${LOGIN[@]}" <<<"$PASSWORD" >"$RUN/43" 2>&1
    grep 'your seat is not active: you are logged in from elsewhere' "$RUN/43"
    grep -q 70-portlatch-fido.rules "$RUN/43"
}

check_44_the_udev_rule_opens_the_key_to_its_group() {
    groupadd --force portlatch-fido
    usermod --append --groups portlatch-fido tom
    cp "$HERE/../70-portlatch-fido.rules" /etc/udev/rules.d/
    udevadm control --reload
    # Its group counts for a key that comes afterwards.
    key first unplug
    key first plug
    ready first
    ls -l "$(device_of first)"
    as tom test -w "$(device_of first)"
    jerry test -w "$(device_of first)"
    rm /etc/udev/rules.d/70-portlatch-fido.rules
    udevadm control --reload
    key first unplug
    key first plug
    ready first
    must_fail as tom test -w "$(device_of first)"
}

check_45_a_key_that_another_program_uses_is_waited_for() {
    local other
    make_credential first "$RUN/other"
    key first mark
    input "$(sed -n 1p "$RUN/other.key")" >"$RUN/other.assert.in"
    without_terminal fido2-assert -G -i "$RUN/other.assert.in" -o "$RUN/other.assert" "$(device_of first)" &
    other=$!
    await first blinks
    agent_mark
    reach desk 8008 "$RUN/45"
    agent_says 'Another program uses your security key'
    key first touch
    wait "$other"
    verify_assertion "$RUN/other" -p
    key first mark
    touch_key first
    got_through "$RUN/45" 8008
}

check_46_a_program_that_disturbs_us_does_no_harm() {
    key first mark
    reach desk 8009 "$RUN/46"
    await first blinks
    # It takes the same key meanwhile, and is turned away; every answer to it is heard by us too.
    without_terminal timeout 10 fido2-assert -G -i "$RUN/other.assert.in" -o "$RUN/46.assert" "$(device_of first)" || true
    test "$(key first count turned-away)" != 0
    key first touch
    got_through "$RUN/46" 8009
}

check_47_reports_for_others_are_passed_over() {
    key first fault foreign-reports
    key first mark
    reach desk 8010 "$RUN/47"
    touch_key first
    got_through "$RUN/47" 8010
    key first fault none
}

check_48_broken_keys_are_named_and_a_mended_one_serves_in_the_same_prompt() {
    local fault port=8011
    for fault in silent silent-on-channel garbage garbage-cbor endless-answer wrong-sequence keep-alive-flood; do
        key first mark
        key first fault "$fault"
        agent_mark
        reach desk "$port" "$RUN/48-$fault"
        agent_says 'The security key does not answer properly'
        key first fault none
        key first mark
        touch_key first
        got_through "$RUN/48-$fault" "$port"
        port=$((port + 1))
    done
}

check_49_without_pinentry_the_pin_is_typed_where_the_prompt_is_watched() {
    local out=/home/jerry/watch.out watcher
    systemctl stop agent
    start_agent ''
    until_true 60 is_attached
    key first mark
    in_terminal "$out" 'to open vault, port 9001 \(8 tries left\)' 0000-wrong \
        'wrong PIN.*to open vault, port 9001 \(7 tries left\)' "$PIN" -- portlatch watch &
    watcher=$!
    until_true 20 grep -q 'Watching for prompts' "$out"
    reach vault 9001 "$RUN/49"
    await first pin-right
    touch_key first
    got_through "$RUN/49" 9001
    test "$(key first count pin-wrong) $(key first count pin-right)" = '1 1'
    pkill -INT -f '^portlatch watch'
    wait "$watcher" || true
    must_fail grep -aF -e "$PIN" -e 0000-wrong "$out"
    systemctl stop agent
    start_agent
    until_true 60 is_attached
}

# log_in_with KEY OUTPUT OPTION... -- [QUESTION ANSWER]...: jerry at a terminal of his own, with this key.
log_in_with() {
    local name=$1 output=$2 login_in
    shift 2
    local -a options=()
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    login_command "$name" "${options[@]}"
    key "$name" mark
    PORTLATCH_HOME=/home/jerry/$name in_terminal "$output" "$@" -- "${LOGIN[@]}" &
    login_in=$!
    case $name in
    # One touch is looked at for its finger, the other signs.
    finger) touch_key_twice "$name" ;;
    *) touch_key "$name" ;;
    esac
    wait "$login_in"
    grep -a "Logged in to proxy.example.com as $name" "$output"
}

# with_kind NAME OPTION... -- [QUESTION ANSWER]...: a user whose only key is of this kind is enrolled and logs in.
with_kind() {
    local name=$1 token out
    shift
    local -a options=()
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    start_key "$name" "${options[@]}"
    ready "$name"
    token=$(new_user "$name")
    out=/home/jerry/$name.out
    log_in_with "$name" "$out" --enrol "$token" -- 'New password:' "$PASSWORD" 'once more:' "$PASSWORD" "$@"
    log_in_with "$name" "$out" -- 'Password:' "$PASSWORD" "${LATER[@]}"
    # A PIN is not shown where it is typed.
    must_fail grep -aF "$PIN" "$out"
    key "$name" unplug
}

ASKED=('PIN of your security key, to [a-z ]+ proxy.example.com \(8 tries left\): ' "$PIN")

check_50_a_key_of_ctap_2_0_is_enrolled_with_its_pin_and_logs_in_without() {
    local LATER=()
    key first unplug
    with_kind old --old --pin-protocol 1 --pin "$PIN" -- "${ASKED[@]}"
}

check_51_a_key_that_always_verifies_asks_its_pin_each_time() {
    local LATER=("${ASKED[@]}")
    with_kind always --always-verifies --pin "$PIN" -- "${ASKED[@]}"
}

check_52_a_key_that_makes_credentials_with_its_pin_only_is_enrolled() {
    local LATER=()
    with_kind made --makes-with-pin-only --pin "$PIN" --pin-protocol 2 -- "${ASKED[@]}"
}

check_53_a_key_with_a_finger_that_always_verifies_asks_no_pin() {
    local LATER=()
    with_kind finger --finger --always-verifies --pin "$PIN" --
    key first plug
}

check_60_the_agent_has_let_go_of_every_key() {
    local agent
    agent=$(systemctl show --property=MainPID --value agent)
    until_true 10 bash -c "! ls -l /proc/$agent/fd | grep hidraw"
    must_fail grep -x security-key /proc/"$agent"/task/*/comm
}

check_61_no_log_holds_a_pin_or_a_password() {
    # The keys' own command lines say it, which is no fault of the programs that are tried.
    journalctl --no-pager | grep -v 'virtual-key run' >"$RUN/journal"
    must_fail grep -raF -e "$PIN" -e 0000-wrong -e "$PASSWORD" "$LOGS"/*.log "$PROXY_DIR/audit" /home/jerry/portlatch "$RUN/journal"
    systemctl is-active agent daemon proxy
}
