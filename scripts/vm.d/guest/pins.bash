# shellcheck shell=bash
# PINs: asked where the resource or the key demands it, by pinentry or where the prompt is watched, and tried once each.

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
    on_screen 'to open vault, port 9000 \(7 tries left\)'
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

check_49_without_pinentry_the_pin_is_typed_where_the_prompt_is_watched() {
    local out=/home/jerry/watch.out watcher
    restart_agent ''
    key first mark
    in_terminal "$out" 'to open vault, port 9001 \(8 tries left\)' 0000-wrong \
        'wrong PIN.*to open vault, port 9001 \(7 tries left\)' "$PIN" -- portlatch watch &
    watcher=$!
    until_true 60 grep -q 'Watching for prompts' "$out"
    reach vault 9001 "$RUN/49"
    await first pin-right
    touch_key first
    got_through "$RUN/49" 9001
    test "$(key first count pin-wrong) $(key first count pin-right)" = '1 1'
    pkill -INT -f '^portlatch watch'
    wait "$watcher" || true
    must_fail grep -aF -e "$PIN" -e 0000-wrong "$out"
    restart_agent
}

# The spare key has a PIN: libfido2 sets it.
set_pin_of_spare() {
    printf '%s\n%s\n' "$PIN" "$PIN" | without_terminal fido2-token -S "$(device_of spare)"
}

# The spare key, enrolled and with a PIN.
spare_has_a_pin() {
    spare_is_enrolled
    if fido2-token -I "$(device_of spare)" | grep noclientPin; then set_pin_of_spare; fi
}

check_63_a_key_without_a_pin_says_that_it_needs_one_and_serves_once_it_has_one() {
    spare_is_enrolled
    key first unplug
    key spare mark
    agent_mark
    reach vault 9002 "$RUN/63"
    agent_says 'A PIN is asked for and this security key has none: set one'
    until_true 20 set_pin_of_spare
    on_screen 'to open vault, port 9002 \(8 tries left\)'
    type_there "$PIN"
    await spare pin-right
    touch_key spare
    got_through "$RUN/63" 9002
    key first plug
}

check_64_of_two_keys_with_a_pin_only_the_touched_one_is_asked_for_it() {
    spare_has_a_pin
    plugged_in first
    key first mark
    key spare mark
    reach vault 9003 "$RUN/64"
    await first blinks
    await spare blinks
    key spare mark
    key spare touch
    await first cancelled
    on_screen 'to open vault, port 9003 \(8 tries left\)'
    type_there "$PIN"
    await spare pin-right
    touch_key spare
    got_through "$RUN/64" 9003
    test "$(key first count pin-right) $(key first count pin-wrong)" = '0 0'
    key spare unplug
}

has_echo() { stty -a <&7 | grep -qE '(^| )echo( |$)'; }

check_65_a_key_that_is_taken_out_takes_its_question_with_it() {
    # Held open, or the terminal would be put in order by being closed.
    exec 7<>/dev/tty6
    has_echo
    key first mark
    agent_mark
    reach vault 9004 "$RUN/65"
    on_screen 'to open vault, port 9004 \(8 tries left\)'
    must_fail has_echo
    key first unplug
    agent_says 'Plug in your security key'
    until_true 60 has_echo
    # An empty screen: the next question is another one.
    printf '\033[2J\033[H' >/dev/tty6
    key first plug
    on_screen 'to open vault, port 9004 \(8 tries left\)'
    type_there "$PIN"
    touch_key first
    got_through "$RUN/65" 9004
    test "$(key first count pin-wrong) $(key first count pin-right)" = '0 1'
    until_true 60 has_echo
    exec 7>&-
}

check_66_after_three_wrong_pins_the_key_wants_new_power_and_none_is_tried_by_itself() {
    local left
    spare_has_a_pin
    key first unplug
    key spare mark
    agent_mark
    reach vault 9005 "$RUN/66"
    for left in 8 7 6; do
        on_screen "to open vault, port 9005 \\($left tries left\\)"
        type_there 0000-wrong
    done
    agent_says 'The security key takes no PIN for now: take it out, put it in and try again'
    test "$(key spare count pin-wrong)" = 3
    key spare mark
    # It is looked at again and again meanwhile, and that is all.
    await spare preflight
    key spare unplug
    key spare plug
    on_screen 'to open vault, port 9005 \(5 tries left\)'
    test "$(key spare count pin-wrong)" = 0
    type_there "$PIN"
    touch_key spare
    got_through "$RUN/66" 9005
    test "$(key spare count pin-wrong) $(key spare count pin-right)" = '0 1'
    key first plug
}

check_67_a_blocked_pin_is_said_and_asked_of_nobody() {
    spare_has_a_pin
    key first unplug
    key spare block-pin
    key spare mark
    agent_mark
    reach vault 9006 "$RUN/67"
    agent_says 'The security key has blocked its PIN after too many wrong ones'
    test "$(key spare count pin-wrong) $(key spare count pin-right) $(key spare count blinks)" = '0 0 0'
    must_fail shows 'port 9006'
    # Another one serves in the same prompt.
    key spare unplug
    key first mark
    key first plug
    on_screen 'to open vault, port 9006 \(8 tries left\)'
    type_there "$PIN"
    touch_key first
    got_through "$RUN/67" 9006
}
