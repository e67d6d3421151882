# shellcheck shell=bash
# What the agent does with keys, seen from the outside: the program's fate, the agent's words, the key's own record.
# Taps, plugging, access and other programs; PINs are pins.bash's.

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
    # Which credential it has was found out before, without a touch.
    has_seen first preflight 1
    test "$(key first count blinks) $(key first count touched)" = '1 1'
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
    plugged_in second
    key second mark
    agent_mark
    reach desk 8001 "$RUN/33"
    touch_key second
    agent_says 'That security key is not enrolled for you: tap the other one'
    touch_key first
    got_through "$RUN/33" 8001
    test "$(key second count assertion)" = 0
}

check_34_the_loser_of_two_keys_stops_blinking() {
    plugged_in second
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
    key first mark
    key first plug
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

check_38_a_key_that_was_put_in_just_before_the_prompt_is_left_alone_too() {
    local plugged
    key first unplug
    key first mark
    plugged=$(date +%s%N)
    key first plug
    reach desk 8020 "$RUN/38"
    await first blinks
    (($(date +%s%N) - plugged >= 2900000000))
    test "$(key first count touched)" = 0
    key first touch
    got_through "$RUN/38" 8020
}

check_39_a_key_whose_own_time_is_over_begins_again_by_itself() {
    key first touch-time 1
    key first mark
    reach desk 8021 "$RUN/39"
    await first timed-out
    # From now on each blinking is answered as it begins.
    key first touched-by itself
    got_through "$RUN/39" 8021
    has_seen first blinks 2
    key first touched-by person
    key first touch-time 30
}

check_42_a_seat_that_is_not_active_is_explained_and_serves_again() {
    local device
    device=$(device_of first)
    to_back
    until_true 60 bash -c "! runuser -u jerry -- test -r $device"
    jerry portlatch doctor >"$RUN/42.doctor" 2>&1 || true
    grep "at $device: your seat is not active: another session is in front" "$RUN/42.doctor"
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

# A credential on the first key that is no business of the agent's.
other_program_has_a_credential() {
    if [[ ! -e $RUN/other.assert.in ]]; then
        make_credential first "$RUN/other"
        input "$(sed -n 1p "$RUN/other.key")" >"$RUN/other.assert.in"
    fi
    settled first
}

check_45_a_key_that_another_program_uses_is_waited_for() {
    local other
    other_program_has_a_credential
    key first mark
    without_terminal fido2-assert -G -i "$RUN/other.assert.in" -o "$RUN/other.assert" "$(device_of first)" &
    other=$!
    await first blinks
    agent_mark
    reach desk 8008 "$RUN/45"
    agent_says 'Another program uses your security key'
    key first mark
    key first touch
    wait "$other"
    verify_assertion "$RUN/other" -p
    # It has begun to blink for us as soon as it was free.
    touch_key first
    got_through "$RUN/45" 8008
}

check_46_a_program_that_disturbs_us_does_no_harm() {
    other_program_has_a_credential
    key first mark
    reach desk 8009 "$RUN/46"
    await first blinks
    # It takes the same key meanwhile, and is turned away; every answer to it is heard by us too.
    without_terminal timeout 30 fido2-assert -G -i "$RUN/other.assert.in" -o "$RUN/46.assert" "$(device_of first)" || true
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
    for fault in silent silent-on-channel garbage garbage-cbor endless-answer wrong-sequence \
        wrong-nonce short-authenticator-data keep-alive-flood; do
        key first mark
        key first fault "$fault"
        agent_mark
        reach desk "$port" "$RUN/48-$fault"
        agent_says 'The security key does not answer properly'
        key first mark
        key first fault none
        touch_key first
        got_through "$RUN/48-$fault" "$port"
        port=$((port + 1))
    done
}

check_54_the_wrong_key_alone_stays_dark_and_the_right_one_serves_in_the_same_prompt() {
    key first unplug
    plugged_in second
    key second mark
    agent_mark
    reach desk 8022 "$RUN/54"
    agent_says 'This security key is not enrolled for you: plug in the one that is'
    test "$(key second count blinks) $(key second count assertion)" = '0 0'
    key first mark
    key first plug
    touch_key first
    got_through "$RUN/54" 8022
    key second unplug
}

check_55_a_no_at_the_prompt_darkens_the_key_and_refuses_the_program() {
    local watcher
    mkfifo "$RUN/55.in"
    chown jerry "$RUN/55.in"
    jerry portlatch watch <"$RUN/55.in" >"$RUN/55.watch" 2>&1 &
    watcher=$!
    exec 8>"$RUN/55.in"
    until_true 60 grep -q 'Watching for prompts' "$RUN/55.watch"
    key first mark
    reach_once gate 8105 "$RUN/55"
    await first blinks
    echo d >&8
    must_fail wait "$PROGRAM"
    grep -qi 'connection refused\|connection reset' "$RUN/55"
    await first cancelled
    test "$(key first count touched)" = 0
    exec 8>&-
    pkill -INT -f '^portlatch watch' || true
    wait "$watcher" || true
}

check_56_a_login_that_is_given_up_darkens_the_key() {
    local login_in
    key first mark
    login_command jerry --password-stdin
    jerry "${LOGIN[@]}" <<<"$PASSWORD" >"$RUN/56" 2>&1 &
    login_in=$!
    await first blinks
    pkill -INT -f '^portlatch login'
    must_fail wait "$login_in"
    await first cancelled
    test "$(key first count touched)" = 0
}

check_57_an_agent_that_ends_darkens_the_key_and_refuses_the_program() {
    key first mark
    reach_once desk 8025 "$RUN/57"
    await first blinks
    systemctl stop agent
    await first cancelled
    must_fail wait "$PROGRAM"
    test "$(key first count touched)" = 0
    start_agent
    until_true 60 is_attached
}

# A second key that jerry has enrolled; it is plugged in afterwards.
spare_is_enrolled() {
    local adding
    if [[ -e $RUN/spare.enrolled ]]; then
        plugged_in spare
        return
    fi
    # What an attempt has left.
    systemctl stop key-spare 2>/dev/null || true
    rm -f "$RUN/key-spare"
    start_key spare --unplugged
    key first plug
    ready first
    key first mark
    jerry portlatch mfa add key spare >"$RUN/spare" 2>&1 &
    adding=$!
    touch_key first
    until_true 60 grep -q 'Now plug in the new security key' "$RUN/spare"
    # Either may be meant: both blink, until one is touched.
    until_true 60 has_seen first blinks 2
    key spare plug
    touch_key spare
    wait "$adding"
    grep 'Added spare' "$RUN/spare"
    await first cancelled
    touch "$RUN/spare.enrolled"
}

check_60_a_second_key_is_added_with_a_tap_of_the_first() {
    spare_is_enrolled
    jerry portlatch mfa ls --json | tr -d ' ' | grep '"name":"spare"'
}

check_61_of_two_enrolled_keys_the_first_touch_counts_and_the_other_goes_dark() {
    spare_is_enrolled
    key first mark
    key spare mark
    reach desk 8023 "$RUN/61"
    await first blinks
    touch_key spare
    got_through "$RUN/61" 8023
    await first cancelled
    test "$(key first count touched) $(key spare count touched)" = '0 1'
}

check_62_a_silent_key_beside_a_good_one_is_named_and_does_no_harm() {
    spare_is_enrolled
    key spare fault silent
    key first mark
    agent_mark
    reach desk 8024 "$RUN/62"
    agent_says 'The security key does not answer properly'
    touch_key first
    got_through "$RUN/62" 8024
    key spare fault none
    key spare unplug
}
