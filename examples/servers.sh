# Private database servers, for the scripts of the examples, which source this file.
#
# Each server lies in a directory of its own, listens on a free port of the loopback interface and nowhere else, and lets nobody in
# without the password, which is another one each time. When the script ends, however it ends, all processes are stopped and all
# files removed. PostgreSQL and MariaDB refuse to be run by root: then they run as the users of their packages, or as nobody.
#
# What a script gets: $work, an empty directory; $password; ${port[NAME]}; say, die, find_atoll, free_port, begin, wait_for, end_process,
# start_postgres, query_postgres, start_mariadb, start_mariadb_again, query_mariadb.

declare -A port=() process=() accounts=()
# In the order in which they were begun; they are ended in the opposite one.
begun=()

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "$0" "$*" >&2
    exit 1
}

work=$(mktemp -d "${TMPDIR:-/tmp}/atoll-example-XXXXXX")
chmod 711 "$work" # the servers' users pass through; nobody else finds anything to read
umask 077
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

clean_up() {
    local status=$? i
    trap - EXIT INT TERM HUP
    for ((i = ${#begun[@]} - 1; i >= 0; i--)); do
        end_process "${begun[i]}" TERM
    done
    rm -rf "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# The program: $ATOLL, or the one built here, or the one in PATH.
find_atoll() {
    local built
    built=$(dirname "${BASH_SOURCE[0]}")/../target/release/atoll
    if [[ -n ${ATOLL:-} ]]; then
        realpath "$(command -v "$ATOLL" || die "ATOLL=$ATOLL is not a program")"
    elif [[ -x $built ]]; then
        realpath "$built"
    else
        command -v atoll || die "atoll is not built: run \`cargo build --release\`, put it into PATH, or set ATOLL to where it is"
    fi
}

# Sets $free to a port on which nobody listens. Below those that the system gives to clients.
free_port() {
    local tries
    for ((tries = 0; tries < 1000; tries++)); do
        free=$((12000 + RANDOM % 20000))
        [[ " ${port[*]} " == *" $free "* ]] && continue
        (: <>"/dev/tcp/127.0.0.1/$free") 2>/dev/null || return 0
    done
    die "no port is free"
}

# begin NAME COMMAND...: starts a process, with its output in $work/NAME.log. In a session of its own: a Ctrl-C is for the script, which
# ends everything in order.
begin() {
    local name=$1
    shift
    setsid "$@" </dev/null >>"$work/$name.log" 2>&1 &
    process[$name]=$!
    begun+=("$name")
    disown # The shell need not say how it has ended.
}

# end_process NAME SIGNAL: sends the signal and waits for the end, 20 s at most.
end_process() {
    local id=${process[$1]:-} tries
    [[ -n $id ]] || return 0
    unset "process[$1]"
    # It may have ended by itself, or be stopped.
    kill "-$2" "$id" 2>/dev/null || true
    kill -CONT "$id" 2>/dev/null || true
    for ((tries = 0; tries < 400; tries++)); do
        kill -0 "$id" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$id" 2>/dev/null || true
}

# wait_for NAME COMMAND...: until the command succeeds.
wait_for() {
    local name=$1 end=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        if ! kill -0 "${process[$name]}" 2>/dev/null; then
            tail -n 20 "$work/$name.log" >&2
            die "$name did not start: see the lines above"
        fi
        if ((SECONDS >= end)); then
            tail -n 20 "$work/$name.log" >&2
            die "$name does not answer after 30 s: see the lines above"
        fi
        sleep 0.05
    done
}

# private_directory NAME USER: a server's directory, and in ${accounts[NAME]} what a command has to begin with to be run as who owns it.
private_directory() {
    local directory=$work/$1 user=$2
    mkdir -m 700 "$directory"
    accounts[$1]=
    if [[ $(id -u) == 0 ]]; then
        id "$user" >/dev/null 2>&1 || user=nobody
        chown "$user:" "$directory"
        accounts[$1]="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups --"
    fi
}

# start_postgres NAME [SETTING=VALUE...]: a PostgreSQL server with the superuser postgres.
start_postgres() {
    local name=$1 directory=$work/$1 bin as settings=() setting
    shift
    for bin in /usr/lib/postgresql/15/bin /usr/lib/postgresql/*/bin "$(dirname "$(command -v initdb || true)")"; do
        [[ -x $bin/initdb ]] && break
    done
    [[ -x $bin/initdb ]] || die "PostgreSQL is not installed: apt-get install postgresql (on Debian)"
    private_directory "$name" postgres
    as=${accounts[$name]}
    printf '%s\n' "$password" >"$directory/password"
    chown --reference="$directory" "$directory/password"
    # shellcheck disable=SC2086 # $as is words
    (cd "$directory" && $as "$bin/initdb" --no-sync --username=postgres --auth=scram-sha-256 --pwfile=password --encoding=UTF8 \
        --locale=C.UTF-8 --pgdata=data >"$work/$name.log" 2>&1) || {
        cat "$work/$name.log" >&2
        die "initdb failed: see above"
    }
    rm "$directory/password"
    for setting in "$@"; do settings+=(-c "$setting"); done
    free_port
    port[$name]=$free
    # shellcheck disable=SC2086
    begin "$name" $as "$bin/postgres" -D "$directory/data" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
        -c "port=$free" "${settings[@]}"
    wait_for "$name" query_postgres "$name" 'SELECT 1'
}

# query_postgres NAME SQL
query_postgres() {
    PGPASSWORD=$password psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --host=127.0.0.1 --port="${port[$1]}" --username=postgres \
        --dbname=postgres --command="$2"
}

# start_mariadb NAME DATABASE [NAME DATABASE]...: MariaDB servers with one database each, which belongs to the user ddb_user. They are
# made at the same time, because that takes seconds.
start_mariadb() {
    local names=() making=() name directory i
    mariadbd=$(PATH=$PATH:/usr/sbin command -v mariadbd || true)
    [[ -n $mariadbd ]] || die "MariaDB is not installed: apt-get install mariadb-server-core mariadb-client-core (on Debian)"
    while (($# > 0)); do
        name=$1 directory=$work/$1
        private_directory "$name" mysql
        cat >"$directory/init.sql" <<END
DROP USER IF EXISTS ''@'localhost';
ALTER USER root@localhost ACCOUNT LOCK;
CREATE DATABASE IF NOT EXISTS $2;
CREATE USER IF NOT EXISTS ddb_user@'%' IDENTIFIED BY '$password';
GRANT ALL ON $2.* TO ddb_user@'%';
END
        chown --reference="$directory" "$directory/init.sql"
        # shellcheck disable=SC2086 # an account is words
        (cd "$directory" && TMPDIR=$directory ${accounts[$name]} mariadb-install-db --no-defaults --skip-test-db \
            --auth-root-authentication-method=normal --datadir="$directory/data" >"$work/$name.log" 2>&1) &
        names+=("$name") making+=($!)
        shift 2
    done
    for i in "${!names[@]}"; do
        name=${names[i]}
        if ! wait "${making[i]}"; then
            cat "$work/$name.log" >&2
            die "mariadb-install-db failed: see above"
        fi
        free_port
        port[$name]=$free
        start_mariadb_again "$name"
    done
}

# start_mariadb_again NAME: on its port and its data.
start_mariadb_again() {
    local name=$1 directory=$work/$1
    # A server that starts removes what it finds of others in TMPDIR.
    # shellcheck disable=SC2086
    begin "$name" env TMPDIR="$directory" ${accounts[$name]} "$mariadbd" --no-defaults --bind-address=127.0.0.1 --skip-name-resolve \
        --datadir="$directory/data" --socket="$directory/socket" --init-file="$directory/init.sql" --port="${port[$name]}" \
        --innodb-log-file-size=64M
    wait_for "$name" query_mariadb "$name" 'SELECT 1'
}

# query_mariadb NAME SQL [OPTION|DATABASE]...
query_mariadb() {
    local name=$1 sql=$2
    shift 2
    MYSQL_PWD=$password mariadb --no-defaults --host=127.0.0.1 --port="${port[$name]}" --user=ddb_user --execute="$sql" "$@"
}
