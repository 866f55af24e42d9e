-- One store. All names are in one schema, which is the search path of every connection.

-- What there is once. Every commit locks this row first, so the order of revisions is the order of commits, and
-- commits become visible in it. The row is small and none of its columns is indexed: its updates stay on its page.
CREATE TABLE meta (
  one        boolean PRIMARY KEY DEFAULT true CHECK (one),
  format     integer NOT NULL,
  store      bytea   NOT NULL,
  incarnation bigint NOT NULL,
  head       bigint  NOT NULL,
  compacted  bigint  NOT NULL,
  -- The cluster and its timeline in which `incarnation` began: a promoted standby is on another.
  system     bigint  NOT NULL,
  timeline   text    NOT NULL
) WITH (fillfactor = 10);

-- How far superseded entries have been removed. Whoever removes some holds this row, and no other.
CREATE TABLE sweep (
  one   boolean PRIMARY KEY DEFAULT true CHECK (one),
  swept bigint NOT NULL
);

-- Every change of every key that is not compacted away. Rows are only ever added and removed, never changed.
CREATE TABLE entry (
  key        bytea  NOT NULL,
  revision   bigint NOT NULL,
  created    bigint NOT NULL,
  version    bigint NOT NULL,
  -- The put before this change, if the key was live.
  previous   bigint,
  -- NULL when this change deleted the key.
  value      bytea
);
-- The newest first: the entry that counts is the first one of its key.
CREATE UNIQUE INDEX entry_by_key ON entry (key, revision DESC);
CREATE INDEX entry_by_revision ON entry (revision, key);

-- What became of transactions with an id. `revision` is NULL when the id was ruled out.
CREATE TABLE outcome (
  id       bytea PRIMARY KEY,
  revision bigint,
  digest   bytea,
  at       timestamptz NOT NULL
);
CREATE INDEX outcome_by_age ON outcome (at);

-- The identity of this life of the store; begins another one when this is no longer the cluster or timeline that it
-- was: then acknowledged revisions may be missing. Refuses a standby.
CREATE FUNCTION life() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  now_system   bigint;
  now_timeline text;
  found_one    bigint;
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE 'this server is a standby' USING ERRCODE = 'read_only_sql_transaction';
  END IF;
  SELECT system_identifier INTO now_system FROM pg_control_system();
  now_timeline := substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8);
  SELECT incarnation INTO found_one FROM meta WHERE system = now_system AND timeline = now_timeline;
  IF NOT FOUND THEN
    UPDATE meta SET incarnation = incarnation + 1, system = now_system, timeline = now_timeline
      WHERE system <> now_system OR timeline <> now_timeline;
    SELECT incarnation INTO found_one FROM meta;
  END IF;
  RETURN found_one;
END $$;

-- Applies transactions one after the other. Per transaction: its id and digest (or NULL), how many compares and writes it
-- has; then all compares (revision, or -1 for absent) and all writes (value, or NULL to delete) of all transactions.
--
-- Answers one row per transaction. `verdict`: 0 applied, 1 applied before, 2 a compare was false, 3 the id was
-- ruled out, 4 the id is of another transaction, 5 this is another life of the store.
CREATE FUNCTION apply(
  life bigint, ids bytea[], digests bytea[], compare_counts integer[], write_counts integer[],
  compare_keys bytea[], compare_revisions bigint[], write_keys bytea[], write_values bytea[]
) RETURNS TABLE (
  verdict integer, at bigint,
  failed integer[], failed_created bigint[], failed_revision bigint[], failed_version bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
  m        meta%ROWTYPE;
  e        record;
  o        outcome%ROWTYPE;
  newest   bigint;
  fresh    bigint;
  compared integer := 0;
  written  integer := 0;
  live     boolean;
BEGIN
  SELECT * INTO m FROM meta FOR UPDATE;
  newest := m.head;
  FOR i IN 1 .. cardinality(ids) LOOP
    verdict := 0;
    failed := '{}'; failed_created := '{}'; failed_revision := '{}'; failed_version := '{}';
    IF m.incarnation <> life THEN
      verdict := 5;
    ELSIF ids[i] IS NOT NULL THEN
      SELECT * INTO o FROM outcome WHERE id = ids[i];
      IF FOUND AND o.revision IS NULL THEN
        verdict := 3;
      ELSIF FOUND AND o.digest <> digests[i] THEN
        verdict := 4;
      ELSIF FOUND THEN
        verdict := 1;
        at := o.revision;
      END IF;
    END IF;
    IF verdict = 0 THEN
      FOR j IN compared + 1 .. compared + compare_counts[i] LOOP
        SELECT created, revision, version, value IS NOT NULL AS live INTO e FROM entry
          WHERE key = compare_keys[j] ORDER BY revision DESC LIMIT 1;
        live := FOUND AND e.live;
        IF compare_revisions[j] <> (CASE WHEN live THEN e.revision ELSE -1 END) THEN
          verdict := 2;
          failed := failed || (j - compared - 1);
          failed_created := failed_created || CASE WHEN live THEN e.created END;
          failed_revision := failed_revision || CASE WHEN live THEN e.revision END;
          failed_version := failed_version || CASE WHEN live THEN e.version END;
        END IF;
      END LOOP;
    END IF;
    IF verdict = 0 THEN
      fresh := newest + 1;
      FOR j IN written + 1 .. written + write_counts[i] LOOP
        SELECT created, revision, version, value IS NOT NULL AS live INTO e FROM entry
          WHERE key = write_keys[j] ORDER BY revision DESC LIMIT 1;
        live := FOUND AND e.live;
        IF live AND write_values[j] IS NULL THEN
          INSERT INTO entry VALUES (write_keys[j], fresh, e.created, e.version, e.revision, NULL);
          newest := fresh;
        ELSIF live THEN
          INSERT INTO entry VALUES (write_keys[j], fresh, e.created, e.version + 1, e.revision, write_values[j]);
          newest := fresh;
        ELSIF write_values[j] IS NOT NULL THEN
          INSERT INTO entry VALUES (write_keys[j], fresh, fresh, 1, NULL, write_values[j]);
          newest := fresh;
        END IF;
      END LOOP;
      IF ids[i] IS NOT NULL THEN
        INSERT INTO outcome VALUES (ids[i], newest, digests[i], now());
      END IF;
    END IF;
    IF verdict <> 1 THEN
      at := newest;
    END IF;
    compared := compared + compare_counts[i];
    written := written + write_counts[i];
    RETURN NEXT;
  END LOOP;
  IF newest <> m.head THEN
    UPDATE meta SET head = newest;
  END IF;
END $$;

-- The revision of a transaction id, or NULL: then it is recorded as ruled out. The lock puts this before or after
-- every commit.
CREATE FUNCTION settle(life bigint, wanted bytea) RETURNS TABLE (same_life boolean, revision bigint)
LANGUAGE plpgsql AS $$
DECLARE
  m meta%ROWTYPE;
BEGIN
  SELECT * INTO m FROM meta FOR UPDATE;
  same_life := m.incarnation = life;
  IF same_life THEN
    INSERT INTO outcome VALUES (wanted, NULL, NULL, now()) ON CONFLICT DO NOTHING;
    SELECT o.revision INTO settle.revision FROM outcome o WHERE o.id = wanted;
  END IF;
  RETURN NEXT;
END $$;

-- Entries from `first` up to, not including, `before`, as they were at a revision, in the order of keys; after them one
-- row without a key when there are more. It walks the index, and jumps where a key has many versions.
CREATE FUNCTION page(first bytea, before bytea, as_of bigint, most integer, most_bytes integer)
RETURNS TABLE (key bytea, revision bigint, created bigint, version bigint, value bytea)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
  e        record;
  start    bytea := first;
  decided  bytea;
  entries  integer := 0;
  size     bigint := 0;
  walked   integer;
  passed   integer;
  jump     boolean;
  again    boolean := true;
BEGIN
  WHILE again LOOP
    again := false;
    walked := 0;
    passed := 0;
    FOR e IN
      SELECT * FROM entry t WHERE t.key >= start AND t.key < before ORDER BY t.key, t.revision DESC LIMIT 4096
    LOOP
      walked := walked + 1;
      jump := walked = 4096 OR passed > 100;
      IF e.key = decided THEN
        passed := passed + 1;
      ELSIF e.revision > as_of AND NOT jump THEN
        passed := passed + 1;
      ELSE
        decided := e.key;
        passed := 0;
        IF e.revision > as_of THEN
          SELECT * INTO e FROM entry t WHERE t.key = decided AND t.revision <= as_of ORDER BY t.revision DESC LIMIT 1;
        END IF;
        IF e.value IS NOT NULL THEN
          entries := entries + 1;
          size := size + octet_length(e.key) + octet_length(e.value);
          IF entries > 1 AND (entries > most OR size > most_bytes) THEN
            key := NULL; revision := 0; created := 0; version := 0; value := '';
            RETURN NEXT;
            RETURN;
          END IF;
          key := e.key; revision := e.revision; created := e.created; version := e.version; value := e.value;
          RETURN NEXT;
        END IF;
      END IF;
      IF jump THEN
        start := decided || '\x00'::bytea;
        again := true;
        EXIT;
      END IF;
    END LOOP;
  END LOOP;
END $$;

-- Changes after a revision, oldest first, up to some rows and bytes, values only of those from `first` up to, not
-- including, `before`. All changes are walked, so the time is bounded by `most`; `walked` says how many there were before
-- the bound of bytes: when it is `most`, or more than the rows, the last revision may not be whole.
CREATE FUNCTION changes(first bytea, before bytea, since bigint, most integer, most_bytes integer)
RETURNS TABLE (walked bigint, inside boolean, key bytea, revision bigint, created bigint, version bigint, previous bigint, value bytea)
LANGUAGE sql STABLE AS $$
  SELECT walked, inside, key, revision, created, version, previous, CASE WHEN inside THEN value END FROM (
    SELECT t.*, count(*) OVER () AS walked, sum(octet_length(t.key) + CASE WHEN t.inside THEN coalesce(octet_length(t.value), 0) ELSE 0 END)
        OVER (ORDER BY t.revision, t.key ROWS UNBOUNDED PRECEDING) AS total
      FROM (
        SELECT entry.*, entry.key >= first AND entry.key < before AS inside FROM entry
          WHERE entry.revision > since ORDER BY entry.revision, entry.key LIMIT most
      ) t
  ) s WHERE total <= most_bytes
$$;

-- Removes what has been superseded, a bounded number of revisions at a time, and answers how far it is; NULL when another
-- session does it just now. Entries superseded by a revision go before a deletion of that revision goes, in one
-- commit: a deleted key never shows an older value.
CREATE FUNCTION sweep_some(steps bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  low  bigint;
  high bigint;
BEGIN
  SELECT swept INTO low FROM sweep FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  SELECT least(compacted, low + steps) INTO high FROM meta;
  IF high <= low THEN
    RETURN low;
  END IF;
  DELETE FROM entry old USING entry new
    WHERE new.revision > low AND new.revision <= high AND old.key = new.key AND old.revision < new.revision;
  DELETE FROM entry WHERE revision > low AND revision <= high AND value IS NULL;
  UPDATE sweep SET swept = high;
  RETURN high;
END $$;

-- Forgets a bounded number of outcomes that nobody can ask for any more.
CREATE FUNCTION forget_some(older interval, most integer) RETURNS bigint LANGUAGE sql AS $$
  WITH gone AS (
    DELETE FROM outcome WHERE id IN (
      SELECT id FROM outcome WHERE at < now() - older ORDER BY at LIMIT most FOR UPDATE SKIP LOCKED
    ) RETURNING 1
  ) SELECT count(*) FROM gone
$$;
