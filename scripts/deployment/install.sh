#!/bin/bash
# Installs, upgrades and removes the product on a server; `make install`, `make upgrade` and `make uninstall` call it.
#
#   bash scripts/deployment/install.sh install|upgrade|uninstall [--dry-run]
#
# PREFIX=/opt/a1-to-a2   where the product goes
# PAGE=1                 also install the operator's page
# WORKERS=1              also install what workers of ENGINE=procrastinate need
# DRY_RUN=1              print each step, change nothing
# PURGE=1                uninstall: also remove the settings, the log folder and the users
# PYTHON=python3.12      the Python for the virtual environment
# DESTDIR=/some/folder   put the files below this folder; create no users and change no service
# DB_USER, DB_PASSWORD   upgrade: the login of the tables' owner, for pending migrations (or DATABASE_URL)
#
# A second install changes nothing. An upgrade keeps the old version in PREFIX.old, and goes back to it if it fails.
set -euo pipefail
umask 022

PREFIX=${PREFIX:-/opt/a1-to-a2}
DESTDIR=${DESTDIR:-}
PAGE=${PAGE:-}
WORKERS=${WORKERS:-}
PURGE=${PURGE:-}
DRY_RUN=${DRY_RUN:-}
USER_NAME=a1-to-a2
PAGE_USER=a1-to-a2-page
SETTINGS=/etc/a1-to-a2
COMMAND=/usr/local/bin/a1-to-a2
UNITS=/etc/systemd/system
CRONTAB=/etc/cron.d/a1-to-a2
# The parts that run, and the documents that people read on the server.
PARTS="scripts database requirements.txt requirements-page.txt requirements-scale.txt .env.example MARKDOWN_DOCS README.md \
RUN_ORCHESTRATOR.md CHANGELOG.md LICENSE"
# How many seconds a run may take to finish the current file and end.
PATIENCE=420

source=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)
changes=0

say() { printf '%s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 2; }

# One step: print it, and do it unless this is a dry run.
step() {
    changes=$((changes + 1))
    if [ -n "$DRY_RUN" ]; then say "would: $*"; return 0; fi
    say "$*"
    "$@"
}

has_systemd() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }
has_page() { [ "$PAGE" = 1 ] || [ -e "$DESTDIR$UNITS/a1-to-a2-page.service" ]; }
has_workers() { [ "$WORKERS" = 1 ] || [ -e "$DESTDIR$UNITS/a1-to-a2-worker@.service" ]; }
is_ours() { [ -e "$1/scripts/orchestrator-prod.py" ]; }
is_active() { has_systemd && systemctl is-active --quiet "$1"; }
active_workers() { # the units of the workers that run on this host
    has_systemd || return 0
    systemctl list-units --plain --no-legend --state=active 'a1-to-a2-worker@*.service' | cut -d ' ' -f 1
}
has_user() { getent passwd "$1" >/dev/null; }

# The files of a tree and their digests: the same for the same version.
digests() {
    # shellcheck disable=SC2086 # names without spaces
    (cd "$1" && find $PARTS -type f ! -path '*/__pycache__/*' -exec sha256sum {} + | LC_ALL=C sort -k 2)
}

is_installed() { # whether exactly this version is installed
    [ -e "$DESTDIR$PREFIX/.installed" ] && digests "$source" | cmp -s - "$DESTDIR$PREFIX/.installed"
}

# A Python that is new enough, can make virtual environments, and is visible to the service (which sees no homes).
find_python() {
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 /usr/bin/python3}; do
        if "$candidate" -c 'import sys, venv, ensurepip
home = sys.base_prefix.startswith(("/root/", "/home/")) and not sys.argv[1]
sys.exit(sys.version_info < (3, 11) or home)' "$DESTDIR" >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Put the product and its virtual environment into $1. It is moved to PREFIX later, so paths name PREFIX.
build() {
    new=$1
    python=$(find_python) || die "no Python 3.11 or newer with venv outside /root and /home" \
        "(Debian: apt-get install python3 python3-venv), or name one with PYTHON=/usr/bin/python3.12"
    [ ! -e "$new" ] || step rm -rf "$new"
    step mkdir -p "$new"
    # shellcheck disable=SC2046 # names without spaces
    step cp -RP $(for part in $PARTS; do echo "$source/$part"; done) "$new/"
    step find "$new" -name __pycache__ -prune -exec rm -rf {} +
    step chmod -R u=rwX,go=rX "$new"
    [ -n "$DESTDIR" ] || step chown -R root:root "$new"
    step "$python" -m venv "$new/.venv"
    step "$new/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes \
        -r "$new/requirements.txt"
    if has_page; then add_packages "$new" page; fi
    if has_workers; then add_packages "$new" scale; fi
    if [ -n "$DRY_RUN" ]; then return 0; fi
    find "$new/.venv/bin" "$new/.venv/pyvenv.cfg" -type f -exec grep -qI -F "$new" {} \; -exec sed -i "s|$new|$PREFIX|g" {} \;
    # The service may not write here, so Python's compiled files are made now.
    "$new/.venv/bin/python" -m compileall -q -s "$new" -p "$PREFIX" "$new/scripts" "$new"/.venv/lib/python3*/site-packages \
        >/dev/null || say "some files could not be compiled; the scripts work without that"
    digests "$source" >"$new/.installed"
    version >"$new/VERSION"
}

add_packages() { # tree, list
    step "$1/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        -r "$1/requirements-$2.txt"
}

version() {
    found=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/pyproject.toml" 2>/dev/null || :)
    revision=$(git -C "$source" rev-parse --short HEAD 2>/dev/null || :)
    say "a1-to-a2 ${found:-of an unknown version}${revision:+ ($revision)}"
}

make_user() { # name, home
    if has_user "$1"; then return 0; fi
    step useradd --system --user-group --home-dir "$2" --no-create-home --shell /usr/sbin/nologin "$1"
}

folder() { # path, mode, owner, group
    [ ! -d "$DESTDIR$1" ] || return 0
    if [ -n "$DESTDIR" ]; then step install -d -m "$2" "$DESTDIR$1"
    else step install -d -m "$2" -o "$3" -g "$4" "$1"; fi
}

secret() { # from, path, owner: written once, never changed again
    [ ! -e "$DESTDIR$2" ] || return 0
    if [ -n "$DESTDIR" ]; then step install -m 0600 "$1" "$DESTDIR$2"
    else step install -m 0600 -o "$3" -g "$3" "$1" "$2"; fi
}

# A file of scripts/deployment in the system's folders, with our PREFIX in it.
put() { # tree, name, path
    [ -e "$1/scripts/deployment/$2" ] || return 0 # an older version does not have this file
    adapted=$(sed "s|/opt/a1-to-a2|$PREFIX|g" "$1/scripts/deployment/$2")
    [ "$adapted" != "$(cat "$DESTDIR$3" 2>/dev/null || :)" ] || return 0
    changes=$((changes + 1))
    if [ -n "$DRY_RUN" ]; then say "would: write $3"; return 0; fi
    say "write $3"
    mkdir -p "$(dirname "$DESTDIR$3")"
    printf '%s\n' "$adapted" >"$DESTDIR$3.new"
    chmod 0644 "$DESTDIR$3.new"
    mv "$DESTDIR$3.new" "$DESTDIR$3"
}

# Units, logrotate, tmpfiles and the command, as they are in this tree.
system_files() { # tree
    before=$changes
    put "$1" a1-to-a2.service $UNITS/a1-to-a2.service
    put "$1" a1-to-a2.logrotate /etc/logrotate.d/a1-to-a2
    put "$1" a1-to-a2.tmpfiles /etc/tmpfiles.d/a1-to-a2.conf
    if has_page; then put "$1" a1-to-a2-page.service $UNITS/a1-to-a2-page.service; fi
    if has_workers; then put "$1" a1-to-a2-worker@.service "$UNITS/a1-to-a2-worker@.service"; fi
    target=$PREFIX/scripts/deployment/a1-to-a2
    if [ "$(readlink "$DESTDIR$COMMAND" 2>/dev/null || :)" != "$target" ]; then
        [ ! -e "$DESTDIR$COMMAND" ] || [ -L "$DESTDIR$COMMAND" ] || die "$COMMAND exists and is not ours: move it away"
        step mkdir -p "$(dirname "$DESTDIR$COMMAND")"
        step ln -sfn "$target" "$DESTDIR$COMMAND"
    fi
    if has_systemd && [ "$changes" -gt "$before" ]; then step systemctl daemon-reload; fi
}

users_and_folders() {
    if [ -z "$DESTDIR" ]; then
        make_user $USER_NAME /var/lib/a1-to-a2
        if has_page; then make_user $PAGE_USER /nonexistent; fi
    fi
    folder $SETTINGS 0750 root $USER_NAME
    folder /var/log/a1-to-a2 0750 $USER_NAME $USER_NAME
    folder /var/lib/a1-to-a2 0700 $USER_NAME $USER_NAME
    secret "$source/.env.example" $SETTINGS/env $USER_NAME
    has_page || return 0
    # The page can open its own two files in there, and list nothing.
    [ "$(stat -c %a "$DESTDIR$SETTINGS" 2>/dev/null || :)" = 751 ] || step chmod 0751 "$DESTDIR$SETTINGS"
    secret /dev/null $SETTINGS/page-users $PAGE_USER
    [ ! -e "$DESTDIR$SETTINGS/page.env" ] || return 0
    secret /dev/null $SETTINGS/page.env $PAGE_USER
    if [ -z "$DRY_RUN" ]; then page_settings >"$DESTDIR$SETTINGS/page.env"; fi
}

# The settings that the page shares with the uploader, and its own.
page_settings() {
    grep -E '^(A1_|OFF_HOURS_|DIGEST_|LOG_|ORCHESTRATOR_TIMEZONE=|DAM_STATUS_A[12]=|DAM_MASTER_ASSETS_FOLDER=|(DAM|BOX)_WEB_URL=|DB_(HOST|PORT|NAME|SSLMODE|CA_BUNDLE)=)' \
        "$DESTDIR$SETTINGS/env" || :
    printf '%s\n' DB_USER=a1_to_a2_page DB_PASSWORD= ADMIN_USERS_FILE=$SETTINGS/page-users '#ADMIN_URL=' ADMIN_OPERATORS=
}

install_all() {
    if [ "$source" != "$PREFIX" ] && [ -e "$DESTDIR$PREFIX" ] && ! is_installed; then
        if is_ours "$DESTDIR$PREFIX"; then die "$PREFIX contains another version: use make upgrade"; fi
        rmdir "$DESTDIR$PREFIX" 2>/dev/null || die "$PREFIX exists and is not ours: choose another PREFIX"
    fi
    users_and_folders
    if [ "$source" = "$PREFIX" ]; then
        [ -x "$PREFIX/.venv/bin/python" ] || die "the checkout is in $PREFIX itself: move it elsewhere, so that" \
            "upgrades can keep the old version next to the new one"
    elif ! is_installed; then
        step mkdir -p "$(dirname "$DESTDIR$PREFIX")"
        build "$DESTDIR$PREFIX.new"
        step mv "$DESTDIR$PREFIX.new" "$DESTDIR$PREFIX"
    fi
    if has_page && [ -z "$DRY_RUN" ] && ! "$DESTDIR$PREFIX/.venv/bin/python" -c 'import flask, waitress' 2>/dev/null; then
        add_packages "$DESTDIR$PREFIX" page
    fi
    if has_workers && [ -z "$DRY_RUN" ] && ! "$DESTDIR$PREFIX/.venv/bin/python" -c 'import procrastinate' 2>/dev/null; then
        add_packages "$DESTDIR$PREFIX" scale
    fi
    system_files "$source"
    if [ "$changes" = 0 ]; then say "nothing to do: this version is installed in $PREFIX"; return 0; fi
    [ -z "$DRY_RUN" ] || return 0
    echo
    say "installed in $PREFIX. Next:"
    say "  1. fill in $SETTINGS/env; put the client certificate next to it (owner $USER_NAME, mode 0600)"
    say "  2. DB_USER=OWNER DB_PASSWORD=... a1-to-a2 migrate, then ... a1-to-a2 grant, as the tables' owner;" \
        "psql -U OWNER -c '\\password ROLE' gives the role its password"
    say "  3. a1-to-a2 check --online"
    say "  4. systemctl enable --now a1-to-a2"
    if has_page; then say "  5. fill in $SETTINGS/page.env; a1-to-a2 page-user NAME; a1-to-a2 page-check;" \
        "systemctl enable --now a1-to-a2-page"; fi
    if has_workers; then say "  workers: MARKDOWN_DOCS/SCALE_OUT.md; then systemctl enable --now a1-to-a2-worker@1"; fi
    has_systemd || say "systemd is not running here: its files are installed, but nothing was loaded or started."
}

# Runs that cron or a person has started, found in /proc.
is_at_work() {
    for process in /proc/[0-9]*; do
        [ "$(stat -c %U "$process" 2>/dev/null || :)" = $USER_NAME ] || continue
        case $(tr '\0' ' ' <"$process/cmdline" 2>/dev/null || :) in
            *scripts/orchestrator-prod.py*|*scripts/a1_to_a2_box_uploader.py*|*scripts/daily_report.py*) return 0 ;;
            *scripts/a1_worker.py*) return 0 ;;
        esac
    done
    return 1
}

was_active=""
cron_is_held=""
is_swapped=""

stop_all() {
    for unit in a1-to-a2-page $(active_workers) a1-to-a2; do
        if is_active "$unit"; then was_active="$unit $was_active"; step systemctl stop "$unit"; fi
    done
    if [ -e $CRONTAB ]; then step mv $CRONTAB $CRONTAB.held; cron_is_held=1; fi
    wait_for_runs
}

wait_for_runs() {
    [ -z "$DRY_RUN$DESTDIR" ] || return 0
    waited=0
    while is_at_work; do
        [ "$waited" -gt 0 ] || say "waiting for a run to finish its current file"
        [ "$waited" -lt $PATIENCE ] || { say "a run of $USER_NAME is still running"; return 1; }
        sleep 1
        waited=$((waited + 1))
    done
}

start_all() {
    if [ -n "$cron_is_held" ]; then step mv $CRONTAB.held $CRONTAB; cron_is_held=""; fi
    for unit in $was_active; do step systemctl start "$unit" || return 1; done
    [ -n "$was_active" ] || say "the service was not running before, so it was not started"
}

# Without the owner's login.
as_service() { env -u DATABASE_URL -u DATABASE_URL_FILE -u DB_USER -u DB_PASSWORD -u DB_PASSWORD_FILE "$@"; }

go_back() {
    trap - EXIT INT TERM HUP
    echo
    say "the upgrade failed: going back to the old version"
    if [ -n "$is_swapped" ]; then
        if has_systemd; then for unit in $was_active; do systemctl stop "$unit" || :; done; fi
        rm -rf "$PREFIX.failed"
        [ ! -e "$PREFIX" ] || mv "$PREFIX" "$PREFIX.failed"
        mv "$PREFIX.old" "$PREFIX"
        system_files "$PREFIX"
        [ -e "$PREFIX/scripts/deployment/a1-to-a2" ] || rm -f $COMMAND
        say "the old version is in $PREFIX again; the new one is in $PREFIX.failed, so that you can look at it."
        say "Applied migrations stay: they only add things, and the old version works with them."
    fi
    start_all || say "the old version does not start either: journalctl -u a1-to-a2"
    exit 2
}

upgrade() {
    is_ours "$PREFIX" || die "nothing is installed in $PREFIX: use make install"
    [ "$source" != "$PREFIX" ] || die "upgrade from a checkout outside $PREFIX: the old version is kept next to the new one"
    if is_installed; then say "nothing to do: this version is installed in $PREFIX"; return 0; fi
    has_login=""
    [ -z "${DATABASE_URL:-}${DATABASE_URL_FILE:-}${DB_USER:-}" ] || has_login=1

    say "the service keeps running while the new version is prepared"
    build "$PREFIX.new"
    if [ -z "$DRY_RUN" ]; then
        pending=0
        as_service "$PREFIX.new/scripts/deployment/a1-to-a2" migrate --status >"$PREFIX.new/.status" || pending=$?
        # Without a list of migrations the database could not be read; with one, 2 means other faults.
        grep -q 'pending$' "$PREFIX.new/.status" ||
            die "the database cannot be read with the settings in $SETTINGS/env; nothing was changed"
        if [ "$pending" = 1 ]; then
            [ -n "$has_login" ] || die "migrations are pending: set the login of the tables' owner," \
                "DB_USER=OWNER DB_PASSWORD=... make upgrade; nothing was changed"
            command -v psql >/dev/null || die "psql is missing, for database/roles.sql" \
                "(Debian: apt-get install postgresql-client); nothing was changed"
        fi
        rm -f "$PREFIX.new/.status"
        trap go_back EXIT INT TERM HUP
    fi
    stop_all
    if [ -e "$PREFIX.old" ]; then
        is_ours "$PREFIX.old" || die "$PREFIX.old exists and is not ours: move it away"
        step rm -rf "$PREFIX.old"
    fi
    step mv "$PREFIX" "$PREFIX.old"
    is_swapped=1
    step mv "$PREFIX.new" "$PREFIX"
    users_and_folders
    system_files "$source"
    if [ -n "$has_login" ]; then
        step $COMMAND migrate
        step $COMMAND grant
    else
        say "no migration is pending; database/roles.sql was not applied (it needs the owner's login)"
    fi
    step as_service $COMMAND check
    start_all
    trap - EXIT INT TERM HUP
    [ -n "$DRY_RUN" ] || say "upgraded: $(cat "$PREFIX/VERSION"). The old version is kept in $PREFIX.old."
    has_systemd || say "systemd is not running here: nothing was started."
}

uninstall() {
    for unit in $(active_workers); do step systemctl disable --now "$unit"; done
    [ ! -e "$DESTDIR$UNITS/a1-to-a2-worker@.service" ] || step rm -f "$DESTDIR$UNITS/a1-to-a2-worker@.service"
    for unit in a1-to-a2-page a1-to-a2; do
        [ -e "$DESTDIR$UNITS/$unit.service" ] || continue
        if has_systemd; then step systemctl disable --now $unit; fi
        step rm -f "$DESTDIR$UNITS/$unit.service"
    done
    for file in $CRONTAB $CRONTAB.held /etc/logrotate.d/a1-to-a2 /etc/tmpfiles.d/a1-to-a2.conf; do
        [ ! -e "$DESTDIR$file" ] || step rm -f "$DESTDIR$file"
    done
    if [ "$(readlink "$DESTDIR$COMMAND" 2>/dev/null || :)" = "$PREFIX/scripts/deployment/a1-to-a2" ]; then
        step rm -f "$DESTDIR$COMMAND"
    fi
    if has_systemd && [ "$changes" -gt 0 ]; then step systemctl daemon-reload; fi
    wait_for_runs
    for tree in "$PREFIX" "$PREFIX.old" "$PREFIX.failed" "$PREFIX.new"; do
        [ -e "$DESTDIR$tree" ] || continue
        if [ -e "$DESTDIR$tree/.installed" ]; then step rm -rf "$DESTDIR$tree"
        else say "kept: $tree, which make install did not make"; fi
    done
    for place in $SETTINGS /var/log/a1-to-a2 /var/lib/a1-to-a2 $UNITS/a1-to-a2.service.d $UNITS/a1-to-a2-page.service.d \
        "$UNITS/a1-to-a2-worker@.service.d"; do
        [ -e "$DESTDIR$place" ] || continue
        if [ "$PURGE" = 1 ]; then step rm -rf "$DESTDIR$place"; else say "kept: $place"; fi
    done
    if [ -z "$DESTDIR" ]; then
        for user in $PAGE_USER $USER_NAME; do
            has_user "$user" || continue
            if [ "$PURGE" = 1 ]; then step userdel "$user"; else say "kept: the user $user"; fi
        done
    fi
    say "kept: the database and its roles (DROP DATABASE and DROP ROLE remove them)"
    [ "$PURGE" = 1 ] || say "PURGE=1 also removes settings, logs and users."
}

main() {
    action=${1:-}
    [ $# -eq 0 ] || shift
    for word; do
        case $word in
            --dry-run) DRY_RUN=1 ;;
            *) die "unknown word: $word; usage: install.sh install|upgrade|uninstall [--dry-run]" ;;
        esac
    done
    case $PREFIX in
        *..*) die "PREFIX must be a plain path, not $PREFIX" ;;
        /*[!A-Za-z0-9/._-]*) die "PREFIX may only have letters, digits and / . _ -, not $PREFIX" ;;
        /?*/?*) PREFIX=${PREFIX%/} ;;
        *) die "PREFIX must be a folder of its own such as /opt/a1-to-a2, not $PREFIX" ;;
    esac
    [ "$DRY_RUN" != 0 ] || DRY_RUN=""
    [ -n "$DESTDIR$DRY_RUN" ] || [ "$(id -u)" = 0 ] || die "run this as root, or with --dry-run to see what it would do"
    case $action in
        install) install_all ;;
        upgrade) [ -z "$DESTDIR" ] || die "upgrade needs the real system, not DESTDIR"; upgrade ;;
        uninstall) uninstall ;;
        *) die "usage: install.sh install|upgrade|uninstall [--dry-run]" ;;
    esac
}

main "$@"
