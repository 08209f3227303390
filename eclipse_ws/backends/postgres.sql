-- What a connection begins with: its settings, the table, and the commands, as functions of its temporary schema.
-- They end with the connection, so that servers of different releases share nothing but the table.
-- A command is one statement, and thus one transaction. It locks the chat, and then sees what others did before.
SET synchronous_commit = off; SET statement_timeout = '5s'; SET default_transaction_isolation = 'read committed';
SET tcp_user_timeout = 15000; SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5;
SET tcp_keepalives_count = 3; -- a node that vanishes holds its lock for half a minute

-- kind: head (place and identity of the last event), event, mark, key (epoch: state, token and fingerprint of an
-- attempt; body: its receipt). bytes: of all events that the chat ever had; those before this one.
-- The ledger is under the chat of zeros, which no chat's hash is: holder (epoch: its name), record (name: a chat's id).
DO $$ BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('eclipse_ws')); -- nodes that start at once do it one after another
  IF to_regclass('eclipse_ws') IS NULL THEN
    CREATE TABLE eclipse_ws (
      chat uuid, kind text, name bytea, epoch text NOT NULL, place bigint NOT NULL, bytes bigint NOT NULL,
      body bytea NOT NULL, made timestamptz NOT NULL, expires timestamptz NOT NULL, PRIMARY KEY (chat, kind, name)
    ) WITH (fillfactor = 70);
    CREATE INDEX ON eclipse_ws (expires);
  END IF;
END $$;

CREATE OR REPLACE FUNCTION pg_temp.put(uuid, text, bytea, text, bigint, bigint, bytea, kept interval) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO eclipse_ws VALUES ($1, $2, $3, $4, $5, $6, $7, now(), now() + kept) ON CONFLICT (chat, kind, name)
  DO UPDATE SET epoch = $4, place = $5, bytes = $6, body = $7, made = now(), expires = excluded.expires;
END $$;

-- Be alone with a chat: the order of its offsets is that of commits, and of notifications. Answers its head, and in
-- `fresh` an epoch that may begin.
CREATE OR REPLACE FUNCTION pg_temp.lock(this uuid) RETURNS record LANGUAGE plpgsql AS $$
DECLARE head record; fresh text := right(gen_random_uuid()::text, 12); BEGIN
  INSERT INTO eclipse_ws VALUES (this, 'head', '', fresh, 0, 0, '', now(), now() + interval '1 day')
  ON CONFLICT (chat, kind, name) DO UPDATE SET expires = eclipse_ws.expires RETURNING *, fresh INTO head;
  RETURN head;
END $$;

-- Notifications that nothing comes between, each of less than 8000 bytes; they are counted down.
CREATE OR REPLACE FUNCTION pg_temp.notify(target text, content bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE piece int := 5700; others int := (length(content) - 1) / piece; BEGIN
  PERFORM pg_notify('eclipse_ws_' || 'eclipse_ws'::regclass::oid,
    concat_ws(' ', target, others - i, encode(substr(content, i * piece + 1, piece), 'base64')))
  FROM generate_series(0, others) AS i;
END $$;

-- Answers how many hear it: each node that listens holds a lock.
CREATE OR REPLACE FUNCTION pg_temp.send(target text, note bytea) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
  PERFORM pg_temp.notify(target, note);
  RETURN count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 'eclipse_ws'::regclass AND database =
    (SELECT oid FROM pg_database WHERE datname = current_database()) AND target IN ('*', pid::text);
END $$;

-- Answers the kept events after a cursor, each ended by a zero byte, all of them or NULL.
CREATE OR REPLACE FUNCTION pg_temp.read(this uuid, this_epoch text, after numeric) RETURNS bytea
LANGUAGE plpgsql AS $$ BEGIN
  RETURN coalesce(string_agg(body || '\x00', '' ORDER BY place) FILTER (WHERE kind = 'event'), '') FROM eclipse_ws
  WHERE chat = this AND kind IN ('head', 'event') AND epoch = this_epoch AND (kind = 'head' OR place > after)
  AND expires > now() HAVING max(place) FILTER (WHERE kind = 'head') = after + count(*) - 1;
END $$;

-- Answers a chat's marks: of each its name and its text, each ended by a zero byte.
CREATE OR REPLACE FUNCTION pg_temp.marks(this uuid) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN
  RETURN string_agg(name || '\x00' || body || '\x00', '') FROM eclipse_ws WHERE chat = this AND kind = 'mark' AND expires > now();
END $$;

-- Answers the position's epoch, offset and identity, what was missed, whether a new epoch begins, and the marks.
CREATE OR REPLACE FUNCTION pg_temp.subscribe(this uuid, known_epoch text, known_place bigint, known_identity bytea,
  renew boolean) RETURNS record LANGUAGE plpgsql AS $$
DECLARE head record := pg_temp.lock(this); missed bytea; BEGIN
  IF head.epoch = known_epoch THEN
    missed := pg_temp.read(this, known_epoch, known_place);
    -- The database went back in time if it has less than is known, or another event in its place.
    renew := renew OR head.place < known_place OR known_identity <> '' AND EXISTS (SELECT FROM eclipse_ws
      WHERE chat = this AND kind IN ('head', 'event') AND epoch = known_epoch AND place = known_place
      AND expires > now() AND CASE kind WHEN 'head' THEN body ELSE name END NOT IN (known_identity, ''));
  END IF;
  IF renew AND (known_epoch IS NULL OR known_epoch = head.epoch) THEN
    PERFORM pg_temp.put(this, 'head', '', head.fresh, 0, head.bytes, '', '1 day');
    RETURN (head.fresh, 0::bigint, ''::bytea, NULL::bytea, true, pg_temp.marks(this));
  END IF;
  RETURN (head.epoch, head.place, head.body, missed, false, pg_temp.marks(this));
END $$;

-- Keeps a mark, unless it is older than what its name has, and sends the note. Answers whether it is kept. mark_epoch is
-- '-' if it has no cursor; a mark that has expired goes with the next sweep.
CREATE OR REPLACE FUNCTION pg_temp.mark(this uuid, mark bytea, content bytea, until float8, mark_epoch text,
  mark_place bigint, room bigint, note bytea) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE head record := pg_temp.lock(this); known record; BEGIN
  SELECT epoch, place INTO known FROM eclipse_ws WHERE chat = this AND kind = 'mark' AND name = mark AND expires > now();
  IF mark_epoch NOT IN ('-', head.epoch) OR mark_epoch <> '-' AND known.epoch = mark_epoch AND known.place >= mark_place
    OR NOT FOUND AND room <= (SELECT count(*) FROM eclipse_ws
      WHERE chat = this AND kind = 'mark' AND expires > now())
  THEN
    RETURN false;
  END IF;
  PERFORM pg_temp.put(this, 'mark', mark, mark_epoch, mark_place, 0, content, to_timestamp(until) - now());
  PERFORM pg_temp.notify('*', note);
  RETURN true;
END $$;

-- Whether an event is about a message; true if the database can't read it.
CREATE OR REPLACE FUNCTION pg_temp.is_about(event bytea, message bytea) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
  RETURN convert_to(convert_from(event, 'UTF8')::json #>> '{data,id}', 'UTF8') = message;
EXCEPTION WHEN data_exception OR untranslatable_character OR program_limit_exceeded THEN RETURN true;
END $$;

-- Answers the event's epoch and offset, and whether it is new. deleted: the message that it deletes, and the identity
-- under which that was saved. deletion: identity of the event after which this one must not be kept.
CREATE OR REPLACE FUNCTION pg_temp.append(this uuid, known_epoch text, known_place bigint, identity bytea,
  event bytea, kept interval, most_events bigint, most_bytes bigint, attempt bytea, fingerprint text, receipt bytea,
  deleted bytea, saved bytea, deletion bytea
) RETURNS record LANGUAGE plpgsql AS $$
DECLARE head record := pg_temp.lock(this); at_epoch text; at_place bigint; is_new boolean; tail bytea; BEGIN
  SELECT epoch, place INTO at_epoch, at_place FROM eclipse_ws
  WHERE chat = this AND kind = 'event' AND name IN (identity, deletion) AND expires > now() ORDER BY name <> identity;
  is_new := NOT FOUND;
  IF is_new THEN
    IF head.epoch = known_epoch AND head.place < known_place THEN -- the database went back in time
      SELECT head.fresh, 0 INTO head.epoch, head.place;
    END IF;
    SELECT head.epoch, head.place + 1 INTO at_epoch, at_place;
  END IF;
  tail := convert_to(format(',"cursor":"%s.%s"}', at_epoch, at_place), 'UTF8');
  IF is_new THEN
    IF deleted <> '' THEN -- what has its content becomes the deletion, in its own place
      UPDATE eclipse_ws SET body = substr(event, 1, length(event) - 1)
        || convert_to(format(',"cursor":"%s.%s"}', epoch, place), 'UTF8')
      WHERE chat = this AND kind = 'event' AND (name = saved
        OR CASE WHEN substr(name, 1, 15) = 'message_updated' THEN pg_temp.is_about(body, deleted) END);
    END IF;
    event := substr(event, 1, length(event) - 1) || tail;
    PERFORM pg_temp.put(this, 'event', identity, at_epoch, at_place, head.bytes, event, kept);
    PERFORM pg_temp.put(this, 'head', '', at_epoch, at_place, head.bytes + length(event), identity, '1 day');
    -- What earlier epochs have left makes room once this one has as many events as are kept.
    DELETE FROM eclipse_ws WHERE chat = this AND kind = 'event' AND (
      CASE epoch WHEN at_epoch THEN place <= at_place - most_events ELSE at_place >= most_events END
      OR bytes < least(head.bytes, head.bytes + length(event) - most_bytes));
    PERFORM pg_temp.notify(this::text, event);
  END IF;
  IF attempt IS NOT NULL THEN
    receipt := substr(receipt, 1, length(receipt) - 1) || tail;
    PERFORM pg_temp.put(this, 'key', attempt, concat_ws(' ', 'done', '', fingerprint), 0, 0, receipt, kept);
  END IF;
  RETURN (at_epoch, at_place, is_new);
END $$;

-- Answers what was known of a key, and its receipt; records the step if the attempt may take it.
CREATE OR REPLACE FUNCTION pg_temp.record(this uuid, attempt bytea, token text, fingerprint text, step text,
  retry_unknown boolean, patience interval, receipt bytea, kept interval) RETURNS record LANGUAGE plpgsql AS $$
DECLARE head record := pg_temp.lock(this); known record; state text; own boolean; BEGIN
  SELECT split_part(epoch, ' ', 1) AS state, split_part(epoch, ' ', 2) AS token, split_part(epoch, ' ', 3) AS mark,
    body, made INTO known FROM eclipse_ws WHERE chat = this AND kind = 'key' AND name = attempt AND expires > now();
  IF fingerprint <> '' AND known.mark NOT IN ('', fingerprint) THEN
    RETURN ('reused'::text, NULL::bytea);
  END IF;
  own := known.state = 'pending' AND known.token = token;
  state := CASE WHEN own AND step = 'pending' THEN 'none' -- before this attempt
    WHEN known.state = 'pending' AND now() - known.made > patience THEN 'unknown' -- its node is gone
    ELSE coalesce(known.state, 'none') END;
  IF own OR step = 'done' OR (step IN ('pending', 'unknown') AND state = 'none')
    OR (step = 'pending' AND (state = 'released' OR (state = 'unknown' AND retry_unknown)))
  THEN
    fingerprint := coalesce(nullif(fingerprint, ''), known.mark);
    PERFORM pg_temp.put(this, 'key', attempt, CASE step WHEN 'forgotten' THEN 'none' ELSE
      concat_ws(' ', step, token, fingerprint) END, 0, 0, receipt, kept);
  END IF;
  RETURN (state, known.body);
END $$;

-- Answers who holds the ledger, once the one that asks has taken it if it may; its row is locked either way.
CREATE OR REPLACE FUNCTION pg_temp.ledger_take(this uuid, holder text, instead_of text, kept interval) RETURNS text
LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO eclipse_ws AS held VALUES (this, 'holder', '', holder, 0, 0, '', now(), now() + kept)
  ON CONFLICT (chat, kind, name) DO UPDATE SET epoch = holder, expires = excluded.expires
  WHERE held.expires <= now() OR held.epoch IN (holder, instead_of);
  IF FOUND THEN
    PERFORM pg_temp.ledger_keep(this, kept);
  END IF;
  RETURN epoch FROM eclipse_ws WHERE chat = this AND kind = 'holder';
END $$;

-- Records are kept a day longer than the holder. Once a day, since its row was made, all of them get that anew, some
-- thousands with each command.
CREATE OR REPLACE FUNCTION pg_temp.ledger_keep(this uuid, kept interval) RETURNS void LANGUAGE plpgsql AS $$
DECLARE most int := 5000; renewed int; BEGIN
  IF EXISTS (SELECT FROM eclipse_ws WHERE chat = this AND kind = 'holder' AND made < now() - interval '1 day') THEN
    UPDATE eclipse_ws SET expires = now() + kept + interval '1 day' WHERE ctid = ANY (ARRAY(SELECT ctid FROM eclipse_ws
      WHERE chat = this AND kind = 'record' AND expires < now() + kept LIMIT most FOR UPDATE));
    GET DIAGNOSTICS renewed = ROW_COUNT;
    UPDATE eclipse_ws SET made = now() WHERE chat = this AND kind = 'holder' AND renewed < most;
  END IF;
END $$;

-- Answers whether the records are kept and the empty ones removed: only the holder's are, and nobody else takes the
-- ledger meanwhile.
CREATE OR REPLACE FUNCTION pg_temp.ledger_write(this uuid, holder text, names bytea[], bodies bytea[], kept interval)
RETURNS boolean LANGUAGE plpgsql AS $$ DECLARE gone bytea; BEGIN
  UPDATE eclipse_ws SET expires = now() + kept
  WHERE chat = this AND kind = 'holder' AND epoch = holder AND expires > now();
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  FOR gone IN SELECT id FROM unnest(names, bodies) AS given (id, record) WHERE record = '' LOOP
    DELETE FROM eclipse_ws WHERE chat = this AND kind = 'record' AND name = gone; -- by its key, whatever is planned
  END LOOP;
  INSERT INTO eclipse_ws SELECT this, 'record', id, '', 0, 0, record, now(), now() + kept + interval '1 day'
  FROM unnest(names, bodies) AS given (id, record) WHERE record <> ''
  ON CONFLICT (chat, kind, name) DO UPDATE SET body = excluded.body, expires = excluded.expires;
  PERFORM pg_temp.ledger_keep(this, kept);
  RETURN true;
END $$;

-- Answers the names of the first records after a name, and then their bodies.
CREATE OR REPLACE FUNCTION pg_temp.ledger_read(this uuid, after bytea, most bigint) RETURNS bytea[]
LANGUAGE plpgsql AS $$ BEGIN
  RETURN array_agg(name ORDER BY name) || array_agg(body ORDER BY name) FROM (SELECT name, body FROM eclipse_ws
    WHERE chat = this AND kind = 'record' AND name > after AND expires > now() ORDER BY name LIMIT most) AS piece;
END $$;
