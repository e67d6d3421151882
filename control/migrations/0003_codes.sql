-- Authenticator apps. The secret is sealed under the key file; a step that was accepted is never accepted again.
CREATE TABLE apps (
    id TEXT NOT NULL PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    secret BLOB NOT NULL,
    last_step INTEGER NOT NULL,
    created INTEGER NOT NULL,
    last_used INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX apps_by_user ON apps (user);

-- Codes that were tried and not accepted since the last one that was; the newest at `last`.
CREATE TABLE code_failures (
    user TEXT NOT NULL PRIMARY KEY REFERENCES users (name) ON DELETE CASCADE,
    failures INTEGER NOT NULL,
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Of a recovery code only a keyed hash is kept.
CREATE TABLE recovery_codes (
    hash BLOB NOT NULL PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    used INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX recovery_codes_by_user ON recovery_codes (user);

-- From where a login was made; of one from before nothing is known.
ALTER TABLE logins ADD COLUMN address TEXT;

-- A tap, or a code in its place, goes with its key or app and with its login. It opens one port of a resource, every
-- port of it (no port), or every resource of a group (a group alone), for `lifetime` milliseconds.
DROP TABLE taps;
CREATE TABLE taps (
    id TEXT NOT NULL PRIMARY KEY,
    login TEXT NOT NULL REFERENCES logins (id) ON DELETE CASCADE,
    tunnel_key TEXT NOT NULL,
    resource TEXT,
    port INTEGER,
    scope_group TEXT,
    key_id TEXT REFERENCES credentials (id) ON DELETE CASCADE,
    app_id TEXT REFERENCES apps (id) ON DELETE CASCADE,
    user_verified INTEGER NOT NULL,
    time INTEGER NOT NULL,
    lifetime INTEGER NOT NULL,
    CHECK ((resource IS NULL) <> (scope_group IS NULL)),
    CHECK (port IS NULL OR resource IS NOT NULL),
    CHECK ((key_id IS NULL) <> (app_id IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX taps_by_login ON taps (login, tunnel_key);
CREATE INDEX taps_by_time ON taps (time);

-- The app of the code behind a grant, where it was not a key.
ALTER TABLE grants ADD COLUMN app_id TEXT;
