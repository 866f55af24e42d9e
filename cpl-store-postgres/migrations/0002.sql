-- For people: what is there and what has changed, as text. CPL itself does not read these.

-- Bytes as text where they are text, otherwise with escapes.
CREATE FUNCTION shown(bytes bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN convert_from(bytes, 'UTF8');
EXCEPTION WHEN OTHERS THEN
  RETURN encode(bytes, 'escape');
END;
$$;

-- Every key that is there, in their order.
CREATE VIEW latest AS
SELECT shown(key) AS key, shown(value) AS value, revision, created, version
FROM (SELECT DISTINCT ON (key) * FROM entry ORDER BY key, revision DESC) AS newest
WHERE value IS NOT NULL
ORDER BY newest.key;

-- Every change that is still known, the oldest first. No value: the key was deleted.
CREATE VIEW changes_shown AS
SELECT revision, shown(key) AS key, shown(value) AS value, previous
FROM entry
ORDER BY revision, entry.key;
