-- The checkpoints that the witness has not got yet.
CREATE INDEX audit_checkpoints_waiting ON audit_checkpoints (seq, at) WHERE witnessed = 0;
