/*
 * batch.h: remote calls with a name and a consequence each.
 *
 * Calls are queued and run together; a failed one is then reported under its name, as an error, as
 * a warning or not at all. Private to recovery/.
 */
#ifndef PAWL_RECOVERY_BATCH_H
#define PAWL_RECOVERY_BATCH_H

#include "recovery/rebuild.h"

#define BATCH_MAX_CALLS 256

enum batch_policy {
	BATCH_MUST,   /* failure ends the recovery */
	BATCH_WARN,   /* failure is told to the user */
	BATCH_IGNORE, /* failure is expected on some kernels and harmless */
};

struct batch {
	struct stub *stub;
	struct tracee *thread;
	size_t n;
	struct batch_note {
		enum batch_policy policy;
		const struct remote_call *call;
		char what[96];
	} notes[BATCH_MAX_CALLS];
};

/* Six arguments of a system call; those left out are 0. */
#define ARGS(...) ((const uint64_t[6]){__VA_ARGS__})

/* thread: one of stub's that is stopped. */
void batch_begin(struct batch *b, struct stub *stub, struct tracee *thread);
/* Makes room for `calls` calls with together `data` bytes of data, running what is queued if need
 * be. Needed before data is pushed: afterwards that many calls are queued without running in
 * between. */
int batch_room(struct batch *b, size_t calls, size_t data, struct err *err);
/* Address of a copy of data in the process; valid for the calls queued until the next run. */
uint64_t batch_push(struct batch *b, const void *data, size_t len);
uint64_t batch_push_string(struct batch *b, const char *text);
int batch_call(struct batch *b, enum batch_policy policy, struct err *err, long nr,
	       const uint64_t arg[6], const char *what, ...) __attribute__((format(printf, 6, 7)));
/* Runs and judges what is queued. Must be called at the end: a batch has no other end. */
int batch_run(struct batch *b, struct err *err);

/* One call at once in thread. *ret (may be NULL) as the kernel returned it; ret NULL: failing is an
 * error, reported as `what`. */
int stub_call(struct stub *stub, struct tracee *thread, long *ret, struct err *err,
	      const char *what, long nr, const uint64_t arg[6]);

/* Takes the lease of a descriptor again (restore_special.c). */
int queue_lease(struct batch *b, const Snap__OpenFile *open, int number, struct err *err);

#endif
