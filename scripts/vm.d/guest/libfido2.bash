# shellcheck shell=bash
# libfido2's own tools say that the keys are conformant ones: what the agent is tried with is a security key, and not
# something that merely agrees with the agent.

RP=libfido2.example

# A credential's or an assertion's input: client data hash, relying party, and what follows.
input() {
    printf '%s' "client data $RANDOM" | sha256sum | cut -d' ' -f1 | xxd_base64
    printf '%s\n' "$RP" "$@"
}

# Hexadecimal digits to base64.
xxd_base64() { python3 -Ic 'import base64, sys; print(base64.b64encode(bytes.fromhex(sys.stdin.read().strip())).decode())'; }

# fido2-* read a PIN from the terminal, or from standard input where there is none.
without_terminal() { setsid --wait "$@"; }

# make_credential NAME FILE OPTION...: touched, and its self-attestation verified.
make_credential() {
    local name=$1 file=$2 maker
    shift 2
    input jerry "$(printf 'user-%s' "$name" | base64)" >"$file.in"
    settled "$name"
    key "$name" mark
    without_terminal fido2-cred -M -i "$file.in" -o "$file" "$@" "$(device_of "$name")" &
    maker=$!
    touch_key "$name"
    wait "$maker"
    fido2-cred -V -i "$file" -o "$file.key" "$@"
}

# make_assertion NAME FILE OPTION...: touched, unless it is not to be.
make_assertion() {
    local name=$1 file=$2 maker
    shift 2
    input "$(sed -n 1p "$file.key")" >"$file.assert.in"
    settled "$name"
    key "$name" mark
    without_terminal fido2-assert -G -i "$file.assert.in" -o "$file.assert" "$@" "$(device_of "$name")" &
    maker=$!
    if [[ " $* " != *" up=false "* ]]; then touch_key "$name"; fi
    wait "$maker"
}

verify_assertion() {
    local file=$1
    shift
    sed 1d "$file.key" >"$file.pem"
    fido2-assert -V "$@" -i "$file.assert" "$file.pem" es256
}

check_01_setup_udev_knows_the_key_and_gives_it_to_the_person_at_the_screen() {
    local device
    start_key probe
    ready probe
    device=$(device_of probe)
    udevadm info "$device" | grep -x 'E: ID_SECURITY_TOKEN=1'
    jerry test -w "$device"
    must_fail as tom test -r "$device"
}

check_02_libfido2_lists_the_key_and_reads_what_it_can() {
    local device
    device=$(device_of probe)
    fido2-token -L | grep "^$device:"
    fido2-token -I "$device" | tee "$RUN/info"
    grep -q 'FIDO_2_1' "$RUN/info"
    grep -q '^maxmsgsiz: 1200' "$RUN/info"
    grep -q 'noclientPin' "$RUN/info"
}

check_03_setup_libfido2_sets_and_changes_a_pin() {
    local device
    device=$(device_of probe)
    printf '12345\n12345\n' | without_terminal fido2-token -S "$device"
    fido2-token -I "$device" | grep '^pin retries: 8'
    printf '12345\n4711\n4711\n' | without_terminal fido2-token -C "$device"
}

check_04_setup_libfido2_makes_a_credential_and_verifies_it() {
    make_credential probe "$RUN/bare"
}

check_05_libfido2_asserts_with_a_touch_and_without_one() {
    make_assertion probe "$RUN/bare" -t up=true
    verify_assertion "$RUN/bare" -p
    make_assertion probe "$RUN/bare" -t up=false
    verify_assertion "$RUN/bare"
    must_fail verify_assertion "$RUN/bare" -p
}

check_06_libfido2_verifies_the_user_by_pin_under_both_protocols() {
    printf '4711\n' | make_credential probe "$RUN/probe" -v
    printf '4711\n' | make_assertion probe "$RUN/probe" -v
    verify_assertion "$RUN/probe" -p -v
    # A key of CTAP 2.0 is asked for its PIN because it says that it wants it.
    start_key one --pin 4711 --pin-protocol 1 --old
    ready one
    printf '4711\n' | make_credential one "$RUN/one"
    printf '4711\n' | make_assertion one "$RUN/one" -t pin=true
    verify_assertion "$RUN/one" -p -v
    key one unplug
}

check_07_libfido2_s_wrong_pin_is_counted() {
    local device
    device=$(device_of probe)
    key probe mark
    input "$(sed -n 1p "$RUN/bare.key")" >"$RUN/wrong.in"
    must_fail without_terminal fido2-assert -G -v -i "$RUN/wrong.in" -o "$RUN/wrong" "$device" <<<0000
    test "$(key probe count pin-wrong)" = 1
    fido2-token -I "$device" | grep '^pin retries: 7'
}

check_08_libfido2_s_reset_forgets_everything() {
    local device resetter
    # A reset is taken only just after plugging in.
    key probe unplug
    key probe plug
    ready probe
    device=$(device_of probe)
    key probe mark
    without_terminal fido2-token -R "$device" &
    resetter=$!
    touch_key probe
    wait "$resetter"
    fido2-token -I "$device" | grep -q noclientPin
    key probe unplug
}
