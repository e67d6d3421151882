//! What stands below the help of a command: examples, and what its options do not say.

/// Of `portlatch`.
pub(super) const PORTLATCH: &str = "\
To begin:
  portlatch login --proxy https://proxy.example.com --user NAME
  portlatch agent &
Then connect as always. Where that does not work, `portlatch doctor` looks for the fault, and `portlatch why HOST:PORT` tells
which rule decides.

Exit codes: 0 done, 1 failed, 2 typed wrong, 3 denied.

Environment:
  PORTLATCH_HOME       where files and socket are, instead of $XDG_STATE_HOME/portlatch and $XDG_RUNTIME_DIR/portlatch
  PORTLATCH_SOCKET     the socket of portlatchd, instead of /run/portlatch/daemon.sock
  PORTLATCH_PINENTRY   the program that asks for a key's PIN, instead of pinentry
  PORTLATCH_LOG        what is logged to standard error: warn (the default), info, debug, trace
  BROWSER, NO_COLOR    as everywhere";

/// Of `login`.
pub(super) const LOGIN: &str = "\
The first time, with what the administrator gave you (or open the link and enrol in the browser):
  portlatch login --proxy https://proxy.example.com --user NAME --enrol TOKEN --ca-pin sha256:...
Later, `portlatch login` is enough; without a browser, `portlatch login --passkey` where your key asks for its PIN or your
finger, or `portlatch login --native` with your password. Modes: webauthn (a key; the default), otp (a code where one is
taken), browser (a page).";

/// Of `agent`.
pub(super) const AGENT: &str = "\
One agent runs for each user, until it is ended (Ctrl-C, SIGTERM). Its terminal shows prompts and takes what `portlatch watch`
takes; on a desktop they are notifications.";

/// Of `watch`.
pub(super) const WATCH: &str = "\
Type, each with Enter: a code or a PIN where one is asked for; d to deny; b to deny and block the program; l to list rests and
blocks; lift N to end one; resume to have prompts again after a pause. Ctrl-C ends the watching, not the prompt.";

/// Of `tap`.
pub(super) const TAP: &str = "\
For programs that give up before you find your key:
  portlatch tap billing-db.corp.internal:5432 && psql -h billing-db.corp.internal
The tap serves new connections for five minutes, or less if the policy says so.";

/// Of `exec`.
pub(super) const EXEC: &str = "\
Each command has PORTLATCH_HOST, PORTLATCH_PORT and PORTLATCH_NAME in its environment; for PostgreSQL also PGHOST and
PGPORT, for MySQL also MYSQL_HOST and MYSQL_TCP_PORT. Ten run at a time. Example:
  portlatch exec --kind db --labels env=prod --output-dir logs -- psql -c 'select 1'";

/// Of `rdp`.
pub(super) const RDP: &str = "\
FreeRDP and Remmina are known. More arguments for the client stand behind --:
  portlatch rdp win-1 --user 'CORP\\alice' -- /f";

/// Of `mfa`.
pub(super) const MFA: &str = "\
Each change needs a tap of a key that you have already.";

/// Of `why`.
pub(super) const WHY: &str = "\
Exit codes: 0 if a connection may be made (after a tap, where one is needed), 3 if it is refused, 1 if nobody can tell.";

/// Of `doctor`.
pub(super) const DOCTOR: &str = "\
Each line begins with ok, warn (it works, but less well than it could) or fail (something does not work), and each that is
not ok says what to do. Exit code: 1 if anything failed.";
