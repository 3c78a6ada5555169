/*
 * control.h: requests to a running watchdog, over a Unix stream socket beside the store.
 *
 * A client sends one JSON line of at most CONTROL_LINE_MOST bytes, {"cmd": "snapshot" | "stop" | "status"} or {"cmd":
 * "move", "to": "ssh://…"}, any with "environment": ["NAME=VALUE", …], and gets one JSON line:
 * {"ok": true, "snapshot": {…}} or {"ok": true, "status": {…}}, or {"ok": false, "kind": N,
 * "error": "…"} with the numbers of enum err_kind. Only processes of the same user, and root, are
 * heard (SO_PEERCRED).
 */
#ifndef PAWL_WATCHDOG_CONTROL_H
#define PAWL_WATCHDOG_CONTROL_H

#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

#include "store/base/err.h"
#include "store/store.h"
#include "watchdog/watchdog.h"

#define CONTROL_MAX_CLIENTS 16
#define CONTROL_LINE_MOST   (64u << 10)
#define CONTROL_MAX_POLL    (CONTROL_MAX_CLIENTS + 1)

struct control;

/* Listens at path (whatever stood there before is gone: the caller holds the job's lock). */
int control_open(struct control **ret, const char *path, struct err *err);
/* Clients that still wait get an error. Unlinks. Takes NULL. */
void control_close(struct control *control);
/* Unlinks now: the job's lock is about to go, and the path may become another watchdog's. */
void control_unlink(struct control *control);

/* Entries to poll for, at most CONTROL_MAX_POLL. */
size_t control_poll(const struct control *control, struct pollfd *fds);

struct control_wishes {
	bool snapshot, stop, status;
	bool urgent;        /* the snapshot is to be sent at once: somebody waits for it */
	char *move_to;      /* the job is to go on there; NULL: it is not. The caller's to free, as is: */
	char **environment; /* how who has asked goes by ssh (ssh_environment_get); NULL: that was not told */
};
/* Reads what has come; the wishes of new requests. Of several moves the last counts. */
struct control_wishes control_read(struct control *control, const struct pollfd *fds, size_t n);

/* A snapshot starts now: whoever waits for one is answered by its outcome. */
void control_arm(struct control *control);
/* The outcome of the snapshot that was armed last. info NULL: failed with err. */
void control_answer_snapshot(struct control *control, const struct snapshot_info *info,
			     const struct err *err);
/* The end: the final snapshot (NULL: there is none, err says why) for all who wait. */
void control_answer_end(struct control *control, const struct snapshot_info *info,
			const struct err *err);
/* The outcome of a stop or a move that failed: those who wait for it are told. */
void control_answer_stop_failed(struct control *control, const struct err *err);
/* Nothing has begun of it. */
void control_refuse_move(struct control *control, const struct err *err);
/* Steals the reference. */
void control_answer_status(struct control *control, json_t *status);

/* snapshot_info as JSON and back (control_json.c). */
json_t *control_pack_snapshot(const struct snapshot_info *info);
int control_unpack_snapshot(json_t *object, struct snapshot_info *ret, struct err *err);
/* struct job_status likewise; further fields are left alone. */
json_t *control_pack_status(const struct job_status *status);
int control_unpack_status(json_t *object, struct job_status *ret, struct err *err);

/* A stream socket bound or connected to path, of any length. */
int control_socket(const char *path, bool listen_there, struct err *err);

#endif
