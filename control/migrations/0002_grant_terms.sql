-- The terms that a grant was given on: where others hold, it is given anew. One from before says none, and ends.
ALTER TABLE grants ADD COLUMN terms TEXT NOT NULL DEFAULT '';
