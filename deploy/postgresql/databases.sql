-- A database for each vault, as a link of the one must not be found in the other, and one each for accounts and certificates.
CREATE ROLE mayfly LOGIN;
CREATE DATABASE guarded OWNER mayfly;
CREATE DATABASE sealed OWNER mayfly;
CREATE DATABASE accounts OWNER mayfly;
CREATE DATABASE certificates OWNER mayfly;
