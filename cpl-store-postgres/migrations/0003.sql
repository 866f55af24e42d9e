-- Why nobody writes: 'moved:ID' when the store was moved or is about to be, 'filling:ID' while it is not complete and only
-- who made it writes; NULL otherwise.
ALTER TABLE meta ADD COLUMN seal text;

CREATE FUNCTION refuse_sealed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE 'the store is sealed' USING ERRCODE = 'CPL01';
END $$;

-- Every commit that changes something moves the head, in the same transaction and under the lock of this row.
CREATE TRIGGER sealed BEFORE UPDATE ON meta FOR EACH ROW
  WHEN (OLD.seal LIKE 'moved:%' AND NEW.head <> OLD.head)
  EXECUTE FUNCTION refuse_sealed();
