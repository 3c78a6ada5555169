/*
 * err.h: the one error convention of pawl.
 *
 * A function that can fail returns int: 0 on success (or a non-negative
 * result it documents), -1 on failure, and then has filled the caller's
 * struct err. The struct is a value: failing never allocates. Results go
 * through ret… parameters, which are written only on success.
 */
#ifndef PAWL_STORE_BASE_ERR_H
#define PAWL_STORE_BASE_ERR_H

/* Kinds are chosen by what a caller does differently. */
enum err_kind {
	ERR_NONE = 0,
	ERR_SYSTEM,      /* a system or library call failed; see sys_errno */
	ERR_INVALID,     /* the caller (in the end: the user) asked for something malformed */
	ERR_NOT_FOUND,   /* no such job, snapshot, file, record */
	ERR_BUSY,        /* somebody else holds it (a running watchdog, another tracer) */
	ERR_CORRUPT,     /* stored bytes fail their checksum or do not decode */
	ERR_VERSION,     /* stored by a newer or foreign program */
	ERR_UNSUPPORTED, /* an object or machine that pawl cannot handle; named in msg */
	ERR_GONE,        /* the process died while we worked on it: an ordinary result */
	ERR_FULL,        /* no space: disk, quota or map; earlier snapshots stay good */
	ERR_DENIED,      /* permission; msg names what forbids it */
	ERR_FENCED,      /* a replica: somebody else has resumed the job since; msg names who */
	ERR_UNREACHABLE, /* a destination does not answer now; try again later */
};

struct err {
	enum err_kind kind;
	int sys_errno;  /* errno at the failure, 0 where none applies */
	char msg[480];  /* one line: "what: why", without "pawl: " and newline */
};

/* All return -1, so that `return err_set(…)` reads well. err may not be NULL. */
int err_set(struct err *err, enum err_kind kind, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Takes errno; appends ": strerror". ESRCH becomes ERR_GONE, ENOSPC and EDQUOT
 * ERR_FULL, EPERM and EACCES ERR_DENIED, ENOENT ERR_NOT_FOUND, all else ERR_SYSTEM. */
int err_sys(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* As err_sys with an explicit errno value (as a remote system call returned it). */
int err_code(struct err *err, int sys_errno, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts context in front of an error that is already set: "context: old". Keeps the kind. */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
