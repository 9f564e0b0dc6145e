-- A database for each vault: a link of the one must not be found in the other.
CREATE ROLE mayfly LOGIN;
CREATE DATABASE guarded OWNER mayfly;
CREATE DATABASE sealed OWNER mayfly;
