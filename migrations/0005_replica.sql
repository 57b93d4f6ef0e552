-- Which server the rows of an object were read from: primary or replica.
ALTER TABLE object ADD COLUMN read_from text NOT NULL DEFAULT 'primary' CHECK (read_from IN ('primary', 'replica'));
