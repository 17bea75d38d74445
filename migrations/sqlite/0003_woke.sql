-- True for the call that started a model server that was asleep, else null.
ALTER TABLE usage ADD COLUMN woke BOOLEAN;
