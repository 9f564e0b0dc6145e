#!/bin/sh
# Makes an authority and certificates for PostgreSQL, Valkey and Mayfly, and forgets the authority's key: nobody issues another one.
#
#     certificates.sh FOLDER      fills FOLDER/postgresql, FOLDER/valkey and FOLDER/mayfly, unless that was done before
#
# docker-compose.yml runs it, each of the three a volume. For new ones stop, remove the volumes tls-…, and start again.
set -eu
umask 077
tls=$1
days=3650

# What is written last is there: all is.
[ ! -e "$tls/mayfly/ca.pem" ] || exit 0
rm -f "$tls"/*/*

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days $days -subj "/CN=Mayfly's databases" \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign \
    -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null

# issue FOLDER FILE USES: a certificate for a host of the folder's name, of which it is also the common name
issue() {
    printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature "extendedKeyUsage=$3" \
        "subjectAltName=DNS:$1,DNS:localhost" subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >"$work/extensions"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$tls/$1/$2.key" 2>/dev/null |
        openssl x509 -req -CA "$work/ca.pem" -CAkey "$work/ca.key" -days $days -extfile "$work/extensions" -out "$tls/$1/$2.pem" 2>/dev/null
}
issue postgresql server serverAuth
issue valkey server serverAuth,clientAuth # valkey-cli in its health check shows it too
issue mayfly client clientAuth
openssl rand -hex 32 >"$tls/postgresql/superuser"

# Each file is its reader's: the users of the images.
cp "$work/ca.pem" "$tls/postgresql/"
cp "$work/ca.pem" "$tls/valkey/"
chmod 0444 "$tls"/*/*.pem
[ "$(id -u)" != 0 ] || {
    chown 999 "$tls"/postgresql/* "$tls"/valkey/*
    chown 10001 "$tls"/mayfly/*
}
install -m 0444 "$work/ca.pem" "$tls/mayfly/ca.pem"
