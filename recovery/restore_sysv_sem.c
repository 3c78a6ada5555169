/* System V semaphores: their values, who last changed them, and what SEM_UNDO is to give back. */
#include "recovery/sysv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sem.h>
#include <sys/syscall.h>

#include "recovery/batch.h"
#include "store/base/cleanup.h"

#define VALUE_MOST 32767

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
};

static int make_set(const void *ctx, key_t key, int flags)
{
	const Snap__SysvSemaphores *s = ctx;

	return semget(key, (int)s->n_values, flags);
}

/* Two operations that leave the value as it is. */
static void touch(struct sembuf ops[2], uint32_t number, uint32_t value)
{
	const short step = value < VALUE_MOST ? 1 : -1;

	ops[0] = (struct sembuf){(unsigned short)number, step, IPC_NOWAIT};
	ops[1] = (struct sembuf){(unsigned short)number, (short)-step, IPC_NOWAIT};
}

/* Programs take a set whose sem_otime is 0 for one that has not been made ready. */
static int operate(const Snap__SysvSemaphores *s, struct err *err)
{
	struct sembuf ops[2];

	touch(ops, 0, s->values[0]);
	if (s->operated && semop(s->object->id, ops, 2) < 0)
		return err_sys(err, "System V semaphore set %d: time", s->object->id);
	return 0;
}

static int set_values(const Snap__SysvSemaphores *s, struct err *err)
{
	cleanup_free unsigned short *values = calloc(s->n_values, sizeof(*values));
	struct semid_ds ds;

	if (!values)
		return err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < s->n_values; i++)
		values[i] = (unsigned short)s->values[i];
	if (semctl(s->object->id, 0, SETALL, (union semun){.array = values}) < 0 ||
	    semctl(s->object->id, 0, IPC_STAT, (union semun){.buf = &ds}) < 0)
		return err_sys(err, "System V semaphore set %d: values", s->object->id);
	sysv_fill_perm(&ds.sem_perm, s->object);
	if (semctl(s->object->id, 0, IPC_SET, (union semun){.buf = &ds}) < 0)
		return err_sys(err, "owner and mode of System V semaphore set %d", s->object->id);
	return operate(s, err);
}

static int enter_set(void *ctx, struct err *err)
{
	const struct sysv_making *m = ctx;
	const Snap__SysvSemaphores *s = m->rec->model->semaphores[m->index];

	if (sysv_choose_id("sem", s->object->id, err) < 0 ||
	    sysv_create(s->object, "System V semaphore set", make_set, s, err) < 0)
		return -1;
	return set_values(s, err);
}

int semaphores_make(struct recovery *rec, size_t index, struct err *err)
{
	return sysv_inside(rec, index, -1, enter_set, err);
}

/* ---- what belongs to a process ------------------------------------------------------------- */

static uint32_t value_of(const Snap__Snapshot *model, const Snap__SemaphoreUndo *u)
{
	for (size_t i = 0; i < model->n_semaphores; i++)
		if (model->semaphores[i]->object->id == u->id)
			return model->semaphores[i]->values[u->number];
	return 0;
}

/* An operation of -a notes an adjustment of +a, and another of +a without a note keeps the value.
 * From the value 0 either may come first; the greatest adjustment, 32768, takes two steps. */
static size_t fill_undo(struct sembuf *ops, const Snap__SemaphoreUndo *u, uint32_t value)
{
	const unsigned short number = (unsigned short)u->number;
	int left = u->adjustment;
	size_t n = 0;

	if (value)
		ops[n++] = (struct sembuf){number, (short)-(int)value, IPC_NOWAIT};
	while (left != 0) {
		int step = left > VALUE_MOST ? VALUE_MOST : left < -VALUE_MOST ? -VALUE_MOST : left;
		struct sembuf noted = {number, (short)-step, IPC_NOWAIT | SEM_UNDO};
		struct sembuf plain = {number, (short)step, IPC_NOWAIT};

		ops[n++] = step > 0 ? plain : noted;
		ops[n++] = step > 0 ? noted : plain;
		left -= step;
	}
	if (value)
		ops[n++] = (struct sembuf){number, (short)value, IPC_NOWAIT};
	return n;
}

int stub_note_undos(struct recovery *rec, struct stub *stub, struct err *err)
{
	const Snap__Process *p = stub->model;
	struct batch b;

	batch_begin(&b, stub, stub_thread(stub));
	for (size_t i = 0; i < p->n_undos; i++) {
		const Snap__SemaphoreUndo *u = p->undos[i];
		struct sembuf ops[8];
		size_t n = fill_undo(ops, u, value_of(rec->model, u));

		if (batch_room(&b, 1, sizeof(ops), err) < 0 ||
		    batch_call(&b, BATCH_MUST, err, SYS_semop,
			       ARGS((uint64_t)(int64_t)u->id, batch_push(&b, ops, n * sizeof(*ops)),
				    n),
			       "undo of System V semaphore %u of set %d", u->number, u->id) < 0)
			return -1;
	}
	return batch_run(&b, err);
}

static int queue_touch(struct batch *b, const Snap__SysvSemaphores *s, uint32_t number,
		       struct err *err)
{
	uint64_t id = (uint64_t)(int64_t)s->object->id;
	struct sembuf ops[2];

	if (!s->operated)
		return batch_call(b, BATCH_WARN, err, SYS_semctl,
				  ARGS(id, number, SETVAL, s->values[number]),
				  "System V semaphore set %d", s->object->id);
	touch(ops, number, s->values[number]);
	if (batch_room(b, 1, sizeof(ops), err) < 0)
		return -1;
	return batch_call(b, BATCH_WARN, err, SYS_semop,
			  ARGS(id, batch_push(b, ops, sizeof(ops)), 2), "System V semaphore set %d",
			  s->object->id);
}

int stub_touch_semaphores(struct recovery *rec, struct stub *stub, struct err *err)
{
	struct batch b;

	batch_begin(&b, stub, stub_thread(stub));
	for (size_t i = 0; i < rec->model->n_semaphores; i++) {
		const Snap__SysvSemaphores *s = rec->model->semaphores[i];

		for (uint32_t k = 0; k < s->n_pids; k++)
			if (s->pids[k] == stub->model->pid && queue_touch(&b, s, k, err) < 0)
				return -1;
	}
	return batch_run(&b, err);
}
