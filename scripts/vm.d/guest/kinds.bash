# shellcheck shell=bash
# Kinds of keys: each is some user's only one, is enrolled at a terminal and logs in.

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
    # A finger that it does not know, then one touch that is looked at for its finger, and one that signs.
    finger)
        await "$name" blinks
        key "$name" mark
        key "$name" wrong-finger
        touch_key_twice "$name"
        ;;
    *) touch_key "$name" ;;
    esac
    wait "$login_in"
    if [[ $name == finger ]]; then grep -a 'does not know this finger' "$output"; fi
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
    key first unplug
    start_key "$name" "${options[@]}"
    ready "$name"
    token=$(new_user "$name")
    out=/home/jerry/$name.out
    log_in_with "$name" "$out" --enrol "$token" -- 'New password:' "$PASSWORD" 'once more:' "$PASSWORD" "$@"
    log_in_with "$name" "$out" -- 'Password:' "$PASSWORD" "${LATER[@]}"
    # A PIN is not shown where it is typed.
    must_fail grep -aF "$PIN" "$out"
    key "$name" unplug
    key first plug
}

ASKED=('PIN of your security key, to [a-z ]+ proxy.example.com \(8 tries left\): ' "$PIN")

check_50_a_key_of_ctap_2_0_is_enrolled_with_its_pin_and_logs_in_without() {
    local LATER=()
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

check_53_a_key_with_a_finger_that_always_verifies_knows_it_and_asks_no_pin() {
    local LATER=()
    with_kind finger --finger --always-verifies --pin "$PIN" --
}
