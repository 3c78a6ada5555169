#include "recovery/batch.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "store/base/log.h"

/* remote_data aligns each piece to 16 bytes. */
#define PIECE_SLACK 16u

void batch_begin(struct batch *b, struct stub *stub, struct tracee *thread)
{
	b->stub = stub;
	b->thread = thread;
	b->n = 0;
	remote_reset(&stub->remote);
}

int batch_room(struct batch *b, size_t calls, size_t data, struct err *err)
{
	if (b->n + calls > BATCH_MAX_CALLS ||
	    (data && data + (calls + 1) * PIECE_SLACK > remote_data_left(&b->stub->remote)))
		return batch_run(b, err);
	return 0;
}

uint64_t batch_push(struct batch *b, const void *data, size_t len)
{
	return remote_push(&b->stub->remote, data, len);
}

uint64_t batch_push_string(struct batch *b, const char *text)
{
	return remote_push_string(&b->stub->remote, text);
}

int batch_call(struct batch *b, enum batch_policy policy, struct err *err, long nr,
	       const uint64_t arg[6], const char *what, ...)
{
	struct batch_note *note;
	va_list ap;

	if (b->n == BATCH_MAX_CALLS && batch_run(b, err) < 0)
		return -1;
	note = &b->notes[b->n];
	note->policy = policy;
	note->call = remote_call_add(&b->stub->remote, nr, arg, 6);
	if (!note->call)
		return err_set(err, ERR_SYSTEM, "process %d: too many calls at once",
			       b->stub->model->pid);
	va_start(ap, what);
	vsnprintf(note->what, sizeof(note->what), what, ap);
	va_end(ap);
	b->n++;
	return 0;
}

static int judge(const struct batch *b, const struct batch_note *note, struct err *err)
{
	int32_t pid = b->stub->model->pid;

	if (note->call->ret >= 0 || note->call->ret < -4095 || note->policy == BATCH_IGNORE)
		return 0;
	if (note->policy == BATCH_MUST)
		return err_code(err, (int)-note->call->ret, "process %d: %s", pid, note->what);
	log_warn("process %d: %s: %s", pid, note->what, strerror((int)-note->call->ret));
	return 0;
}

int batch_run(struct batch *b, struct err *err)
{
	int result = 0;

	if (b->n && remote_run(&b->stub->remote, b->thread, err) < 0)
		return err_wrap(err, "process %d: %s", b->stub->model->pid, b->notes[0].what);
	for (size_t i = 0; i < b->n && result == 0; i++)
		result = judge(b, &b->notes[i], err);
	b->n = 0;
	remote_reset(&b->stub->remote);
	return result;
}

int stub_call(struct stub *stub, struct tracee *thread, long *ret, struct err *err,
	      const char *what, long nr, const uint64_t arg[6])
{
	long value = 0;

	if (remote_one(&stub->remote, thread, &value, nr, arg, 6, err) < 0)
		return err_wrap(err, "process %d: %s", stub->model->pid, what);
	if (ret)
		*ret = value;
	else if (value < 0)
		return err_code(err, (int)-value, "process %d: %s", stub->model->pid, what);
	return 0;
}
