#include "store/hold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/catalogue.h"
#include "store/session.h"

int store_hold_look(struct store *store, const char *name, struct hold_view *ret, struct err *err)
{
	cleanup_job Cat__Job *job = NULL;
	struct hold_view view = {0};

	if (job_load(store, name, &job, err) < 0 ||
	    job_info_from_record(name, strlen(name), job, &view.job, err) < 0)
		return -1;
	view.version = job->version;
	view.taken = job->taken;
	if (job->token.len == HOLD_TOKEN)
		memcpy(view.token, job->token.data, HOLD_TOKEN);
	snprintf(view.holder, sizeof(view.holder), "%.*s", (int)job->holder.len,
		 job->holder.len ? (const char *)job->holder.data : "");
	*ret = view;
	return 0;
}

/* What stays of the record when what is said of the job changes. */
static void carry_over(Cat__Job *to, const Cat__Job *from)
{
	to->id = from->id;
	to->created = from->created;
	to->last_seq = from->last_seq;
	to->version = from->version;
	to->token = from->token;
	to->holder = from->holder;
	to->taken = from->taken;
	to->watchdog_pid = to->leader_pid = to->init_pid = 0;
	to->attached = false;
	to->leader_start = to->init_start = 0;
}

static int no_memory(const struct job_info *job, struct err *err)
{
	return err_sys(err, "job '%s'", job->name);
}

struct take {
	const struct job_info *job;
	uint64_t version;
	const char *holder;
	uint8_t *token;
	ProtobufCBinaryData *texts;
};

static int quicker(const struct take *take, const Cat__Job *old, struct err *err)
{
	return err_set(err, ERR_FENCED, "job '%s' has been taken or changed meanwhile%s%.*s",
		       take->job->name, old && old->holder.len ? ", by " : "",
		       old ? (int)old->holder.len : 0,
		       old && old->holder.len ? (const char *)old->holder.data : "");
}

static int take_in_txn(struct store *store, MDB_txn *txn, const struct take *take, struct err *err)
{
	cleanup_job Cat__Job *old = NULL;
	struct next_ids next;
	Cat__Job job;
	int rc = job_read(store, txn, take->job->name, &old, err);

	if (rc < 0 && err->kind != ERR_NOT_FOUND)
		return -1;
	if (old && old->token.len == HOLD_TOKEN && memcmp(old->token.data, take->token, HOLD_TOKEN) == 0)
		return 0;
	if (take->version != (old ? old->version : 0))
		return quicker(take, old, err);
	job_record_from_info(take->job, take->texts, &job);
	if (old) {
		carry_over(&job, old);
	} else {
		if (next_get(store, txn, &next, err) < 0)
			return -1;
		carry_over(&job, &(Cat__Job){.id = next.job++, .created = take->job->created});
		if (next_put(store, txn, &next, err) < 0)
			return -1;
	}
	job.token = (ProtobufCBinaryData){HOLD_TOKEN, take->token};
	job.holder = (ProtobufCBinaryData){strlen(take->holder), (uint8_t *)take->holder};
	job.taken = clock_ns(CLOCK_REALTIME);
	return job_write(store, txn, take->job->name, &job, err);
}

static int lock_if_there(struct store *store, const char *name, int *ret, struct err *err)
{
	struct job_info here;

	*ret = -1;
	if (store_job_get(store, name, &here, err) < 0)
		return err->kind == ERR_NOT_FOUND ? 0 : -1;
	job_info_clear(&here);
	return store_job_lock(store, name, ret, err);
}

int store_hold_take(struct store *store, const struct job_info *job, uint64_t version,
		    const char *holder, uint8_t token[HOLD_TOKEN], struct err *err)
{
	cleanup_free ProtobufCBinaryData *texts = calloc(job->argc + job->n_options + 1, sizeof(*texts));
	static const uint8_t none[HOLD_TOKEN];
	const struct take take = {job, version, holder, token, texts};
	MDB_txn *txn;
	int lock, rc;

	if (!texts || (memcmp(token, none, HOLD_TOKEN) == 0 && getrandom(token, HOLD_TOKEN, 0) != HOLD_TOKEN))
		return no_memory(job, err);
	/* Nobody starts it meanwhile, who has asked who holds it before. */
	if (lock_if_there(store, job->name, &lock, err) < 0)
		return -1;
	rc = txn_write(store, &txn, err);
	if (rc == 0) {
		rc = take_in_txn(store, txn, &take, err);
		if (rc == 0)
			rc = txn_commit(store, txn, true, err);
		else
			txn_end(store, txn);
	}
	store_job_unlock(lock);
	return rc;
}

static int put_in_txn(struct store *store, MDB_txn *txn, const struct session_hold *hold,
		      const struct job_info *info, ProtobufCBinaryData *texts, struct err *err)
{
	cleanup_job Cat__Job *old = NULL;
	Cat__Job job;

	if (job_read(store, txn, info->name, &old, err) < 0 ||
	    job_check_hold(hold, info->name, old, err) < 0)
		return -1;
	job_record_from_info(info, texts, &job);
	carry_over(&job, old);
	return job_write(store, txn, info->name, &job, err);
}

int store_hold_put(struct store *store, const uint8_t token[HOLD_TOKEN], const struct job_info *job,
		   struct err *err)
{
	cleanup_free ProtobufCBinaryData *texts = calloc(job->argc + job->n_options + 1, sizeof(*texts));
	const struct session_hold hold = {token, job->generation};
	MDB_txn *txn;

	if (!texts)
		return no_memory(job, err);
	if (txn_write(store, &txn, err) < 0)
		return -1;
	if (put_in_txn(store, txn, &hold, job, texts, err) < 0) {
		txn_end(store, txn);
		return -1;
	}
	return txn_commit(store, txn, true, err);
}

static int drop_in_txn(struct store *store, MDB_txn *txn, const struct session_hold *hold,
		       const char *name, const uint64_t *seqs, size_t n, struct err *err)
{
	cleanup_job Cat__Job *job = NULL;
	MDB_val value;

	if (job_read(store, txn, name, &job, err) < 0 || job_check_hold(hold, name, job, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		int found = seqs[i] ? snapshot_find(store, txn, job->id, seqs[i], &value, NULL, err)
				    : 0;

		if (found < 0 ||
		    (found && snapshot_remove(store, txn, job->id, seqs[i], err) < 0))
			return -1;
	}
	return 0;
}

int store_hold_drop(struct store *store, const uint8_t token[HOLD_TOKEN], const char *name,
		    const uint64_t *seqs, size_t n, struct err *err)
{
	const struct session_hold hold = {token, UINT64_MAX};
	MDB_txn *txn;

	if (txn_write(store, &txn, err) < 0)
		return -1;
	if (drop_in_txn(store, txn, &hold, name, seqs, n, err) < 0) {
		txn_end(store, txn);
		return -1;
	}
	return txn_commit(store, txn, true, err);
}
