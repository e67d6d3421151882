-- Times are milliseconds since 1970. Secrets stand here only as hashes; names are checked before they are written.

-- Grows with every change that a catalogue could show.
CREATE TABLE revision (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), value INTEGER NOT NULL) STRICT;
INSERT INTO revision (only_row, value) VALUES (1, 1);

CREATE TABLE documents (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    json TEXT NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- The secret side of a user; the roles stand in the document.
CREATE TABLE users (
    name TEXT NOT NULL PRIMARY KEY,
    handle BLOB NOT NULL UNIQUE,
    password_hash TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE enrolments (
    hash BLOB NOT NULL PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    expires INTEGER NOT NULL,
    used INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX enrolments_by_user ON enrolments (user);

CREATE TABLE credentials (
    id TEXT NOT NULL PRIMARY KEY,
    credential BLOB NOT NULL UNIQUE,
    user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    security_key TEXT NOT NULL,
    counter INTEGER NOT NULL,
    created INTEGER NOT NULL,
    last_used INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX credentials_by_user ON credentials (user);

-- A login outlives its user here, so that proxies hear of its end until its certificate has ended too.
CREATE TABLE logins (
    id TEXT NOT NULL PRIMARY KEY,
    user TEXT NOT NULL,
    device TEXT NOT NULL,
    spki BLOB NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    ended INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX logins_by_user ON logins (user);
CREATE INDEX logins_by_expiry ON logins (expires);

CREATE TABLE tunnel_keys (
    login TEXT NOT NULL REFERENCES logins (id) ON DELETE CASCADE,
    thumbprint TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (login, thumbprint)
) STRICT, WITHOUT ROWID;

-- A tap goes with its key and its login; a NULL port means every port of the resource.
CREATE TABLE taps (
    id TEXT NOT NULL PRIMARY KEY,
    login TEXT NOT NULL REFERENCES logins (id) ON DELETE CASCADE,
    tunnel_key TEXT NOT NULL,
    resource TEXT NOT NULL,
    port INTEGER,
    key_id TEXT NOT NULL REFERENCES credentials (id) ON DELETE CASCADE,
    user_verified INTEGER NOT NULL,
    time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX taps_by_login ON taps (login, tunnel_key, resource);
CREATE INDEX taps_by_time ON taps (time);

CREATE TABLE grants (
    id TEXT NOT NULL PRIMARY KEY,
    login TEXT NOT NULL,
    user TEXT NOT NULL,
    device TEXT NOT NULL,
    resource TEXT NOT NULL,
    port INTEGER NOT NULL,
    key_id TEXT,
    user_verified INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_by_login ON grants (login);
CREATE INDEX grants_by_expiry ON grants (expires);

CREATE TABLE join_tokens (
    hash BLOB NOT NULL PRIMARY KEY,
    proxy TEXT NOT NULL,
    expires INTEGER NOT NULL,
    used INTEGER
) STRICT, WITHOUT ROWID;
