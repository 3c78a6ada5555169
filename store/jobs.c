#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/lock.h"
#include "store/record.h"

#define JOB_NAME_MOST 100

static void free_texts(char **list, size_t n)
{
	while (list && n > 0)
		free(list[--n]);
	free(list);
}

void job_info_clear(struct job_info *info)
{
	free_texts(info->argv, info->argc);
	free_texts(info->options, info->n_options);
	free(info->cwd);
	*info = (struct job_info){0};
}

int job_name_check(const char *name, struct err *err)
{
	static const char allowed[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-";
	size_t len = strlen(name);

	if (len < 1 || len > JOB_NAME_MOST || strspn(name, allowed) != len || name[0] == '-' ||
	    name[0] == '.')
		return err_set(err, ERR_INVALID,
			       "job name '%.100s': must be 1 to %d of A-Z a-z 0-9 . _ + -, and not "
			       "start with '-' or '.'",
			       name, JOB_NAME_MOST);
	return 0;
}

static MDB_val name_key(const char *name)
{
	return (MDB_val){strlen(name), (void *)name};
}

int job_read(struct store *store, MDB_txn *txn, const char *name, Cat__Job **ret, struct err *err)
{
	MDB_val key = name_key(name);
	char what[128];
	int found;

	if (job_name_check(name, err) < 0)
		return -1;
	snprintf(what, sizeof(what), "job '%s'", name);
	found = message_get(store, txn, store->jobs, &key, MAGIC_JOB, &cat__job__descriptor, ret,
			    what, err);
	if (found == 0)
		return err_set(err, ERR_NOT_FOUND, "there is no job '%s'", name);
	return found < 0 ? -1 : 0;
}

int job_write(struct store *store, MDB_txn *txn, const char *name, const Cat__Job *job,
	      struct err *err)
{
	MDB_val key = name_key(name);
	Cat__Job next = *job;

	next.version++;
	return message_put(store, txn, store->jobs, &key, MAGIC_JOB, &next.base, name, err);
}

void job_name_of(struct store *store, MDB_txn *txn, uint64_t id, char *buf, size_t len)
{
	MDB_val key, value;
	MDB_cursor *cursor;
	struct err ignored;

	snprintf(buf, len, "job #%" PRIu64, id);
	if (mdb_cursor_open(txn, store->jobs, &cursor))
		return;
	while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
		cleanup_job Cat__Job *job = NULL;

		if (message_decode(store, &key, &value, MAGIC_JOB, &cat__job__descriptor, &job,
				   &ignored) == 0 &&
		    job->id == id)
			snprintf(buf, len, "%.*s", (int)key.mv_size, (const char *)key.mv_data);
	}
	mdb_cursor_close(cursor);
}

/* ---- between the stored form and struct job_info ------------------------------------------- */

static char *text_of(const ProtobufCBinaryData *data)
{
	return data->len ? strndup((const char *)data->data, data->len) : strdup("");
}

static bool texts_from_record(const ProtobufCBinaryData *from, size_t n, char ***ret, size_t *ret_n)
{
	*ret_n = 0;
	*ret = calloc(n + 1, sizeof(char *));
	for (; *ret && *ret_n < n; (*ret_n)++)
		if (!((*ret)[*ret_n] = text_of(&from[*ret_n])))
			return false;
	return *ret;
}

int job_info_from_record(const char *name, size_t name_len, const Cat__Job *job,
			 struct job_info *ret, struct err *err)
{
	struct job_info info = {
		.id = job->id,
		.state = (enum job_state)job->state,
		.exit_status = job->exit_status,
		.created = job->created,
		.generation = job->generation,
		.first_generation = job->first_generation,
		.last_seq = job->last_seq,
		.watchdog_pid = job->watchdog_pid,
		.leader_pid = job->leader_pid,
		.attached = job->attached,
		.leader_start = job->leader_start,
		.init_pid = job->init_pid,
		.init_start = job->init_start,
		.moving = job->moving,
		.cwd = text_of(&job->cwd),
	};
	bool complete =
		info.cwd && texts_from_record(job->argv, job->n_argv, &info.argv, &info.argc) &&
		texts_from_record(job->options, job->n_options, &info.options, &info.n_options);

	if (job->moved_to.len < sizeof(info.moved_to) && job->moved_to.len)
		memcpy(info.moved_to, job->moved_to.data, job->moved_to.len);
	if (name_len >= sizeof(info.name))
		name_len = sizeof(info.name) - 1;
	memcpy(info.name, name, name_len);
	if (!complete) {
		err_sys(err, "job '%s'", info.name);
		job_info_clear(&info);
		return -1;
	}
	*ret = info;
	return 0;
}

static void borrow_texts(ProtobufCBinaryData *to, char *const *texts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (ProtobufCBinaryData){strlen(texts[i]), (uint8_t *)texts[i]};
}

void job_record_from_info(const struct job_info *info, ProtobufCBinaryData *texts, Cat__Job *ret)
{
	*ret = (Cat__Job)CAT__JOB__INIT;
	ret->id = info->id;
	ret->state = (uint32_t)info->state;
	ret->exit_status = info->exit_status;
	ret->created = info->created;
	ret->generation = info->generation;
	ret->first_generation = info->first_generation;
	ret->last_seq = info->last_seq;
	ret->watchdog_pid = info->watchdog_pid;
	ret->leader_pid = info->leader_pid;
	ret->attached = info->attached;
	ret->leader_start = info->leader_start;
	ret->init_pid = info->init_pid;
	ret->init_start = info->init_start;
	ret->n_argv = info->argc;
	ret->argv = texts;
	borrow_texts(ret->argv, info->argv, info->argc);
	ret->n_options = info->n_options;
	ret->options = texts + info->argc;
	borrow_texts(ret->options, info->options, info->n_options);
	ret->moving = info->moving;
	ret->moved_to = (ProtobufCBinaryData){strlen(info->moved_to), (uint8_t *)info->moved_to};
	if (info->cwd)
		ret->cwd = (ProtobufCBinaryData){strlen(info->cwd), (uint8_t *)info->cwd};
}

int job_load(struct store *store, const char *name, Cat__Job **ret, struct err *err)
{
	MDB_txn *txn;
	int rc;

	if (txn_read(store, &txn, err) < 0)
		return -1;
	rc = job_read(store, txn, name, ret, err);
	txn_end(store, txn);
	return rc;
}

int store_job_get(struct store *store, const char *name, struct job_info *ret, struct err *err)
{
	cleanup_job Cat__Job *job = NULL;

	if (job_load(store, name, &job, err) < 0)
		return -1;
	return job_info_from_record(name, strlen(name), job, ret, err);
}

static int put_in_txn(struct store *store, MDB_txn *txn, const struct job_info *info,
		      ProtobufCBinaryData *texts, struct err *err)
{
	cleanup_job Cat__Job *old = NULL;
	Cat__Job job;

	if (job_read(store, txn, info->name, &old, err) < 0)
		return -1;
	if (old->id != info->id)
		return err_set(err, ERR_NOT_FOUND, "job '%s' was removed", info->name);
	job_record_from_info(info, texts, &job);
	/* A snapshot may have been published since the caller read the record. */
	if (old->last_seq > job.last_seq)
		job.last_seq = old->last_seq;
	job.created = old->created;
	job.token = old->token;
	job.holder = old->holder;
	job.taken = old->taken;
	job.version = old->version;
	job.replicas = old->replicas;
	job.n_replicas = old->n_replicas;
	return job_write(store, txn, info->name, &job, err);
}

int store_job_put(struct store *store, const struct job_info *info, struct err *err)
{
	cleanup_free ProtobufCBinaryData *texts =
		calloc(info->argc + info->n_options + 1, sizeof(*texts));
	MDB_txn *txn;

	if (!texts)
		return err_sys(err, "job '%s'", info->name);
	if (txn_write(store, &txn, err) < 0)
		return -1;
	if (put_in_txn(store, txn, info, texts, err) < 0) {
		txn_end(store, txn);
		return -1;
	}
	return txn_commit(store, txn, true, err);
}

static int list_in_txn(struct store *store, MDB_cursor *cursor, struct job_info *list, size_t room,
		       size_t *ret_n, struct err *err)
{
	MDB_val key, value;
	int rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);

	for (*ret_n = 0; rc == 0 && *ret_n < room;
	     rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
		struct job_info *info = &list[(*ret_n)++];
		cleanup_job Cat__Job *job = NULL;
		struct err why;

		/* A damaged record is listed by name only: the others must stay reachable. */
		if (message_decode(store, &key, &value, MAGIC_JOB, &cat__job__descriptor, &job,
				   &why) < 0)
			snprintf(info->name, sizeof(info->name), "%.*s", (int)key.mv_size,
				 (const char *)key.mv_data);
		else if (job_info_from_record(key.mv_data, key.mv_size, job, info, err) < 0)
			return -1;
	}
	return rc && rc != MDB_NOTFOUND ? err_lmdb(err, rc, "cannot list jobs") : 0;
}

int store_job_list(struct store *store, struct job_info **ret, size_t *ret_n, struct err *err)
{
	struct job_info *list = NULL;
	MDB_cursor *cursor = NULL;
	MDB_stat stat = {0};
	MDB_txn *txn;
	size_t n = 0;
	int rc;

	if (txn_read(store, &txn, err) < 0)
		return -1;
	rc = mdb_stat(txn, store->jobs, &stat);
	if (rc == 0)
		rc = mdb_cursor_open(txn, store->jobs, &cursor);
	if (rc)
		rc = err_lmdb(err, rc, "cannot list jobs");
	else if (!(list = calloc(stat.ms_entries + 1, sizeof(*list))))
		rc = err_sys(err, "cannot list jobs");
	else
		rc = list_in_txn(store, cursor, list, stat.ms_entries, &n, err);
	if (cursor)
		mdb_cursor_close(cursor);
	txn_end(store, txn);
	if (rc < 0) {
		while (list && n > 0)
			job_info_clear(&list[--n]);
		free(list);
		return -1;
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

/* ---- the job's lock ------------------------------------------------------------------------ */

static int open_lock(struct store *store, uint64_t job, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "locks/%" PRIu64 ".lock", job);
	return openat(store->dir_fd, path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

bool store_job_is_locked(struct store *store, const struct job_info *info)
{
	cleanup_fd int fd = open_lock(store, info->id, O_RDONLY);

	return fd >= 0 && lock_byte_held(fd, 0) == 1;
}

/* The job's record, made where it is missing. */
static int job_ensure(struct store *store, const char *name, Cat__Job **ret, struct err *err)
{
	Cat__Job fresh = CAT__JOB__INIT;
	struct next_ids next;
	MDB_txn *txn;
	int rc;

	if (txn_write(store, &txn, err) < 0)
		return -1;
	rc = job_read(store, txn, name, ret, err);
	if (rc == 0 || err->kind != ERR_NOT_FOUND)
		goto done;
	rc = next_get(store, txn, &next, err);
	if (rc < 0)
		goto done;
	fresh.id = next.job++;
	fresh.created = clock_ns(CLOCK_REALTIME);
	if ((rc = next_put(store, txn, &next, err)) == 0 &&
	    (rc = job_write(store, txn, name, &fresh, err)) == 0 &&
	    (rc = job_read(store, txn, name, ret, err)) == 0)
		return txn_commit(store, txn, true, err);
done:
	txn_end(store, txn);
	return rc;
}

/* 1: locked, and the job is still the one we meant; 0: it was dropped meanwhile. */
static int lock_job(struct store *store, const char *name, const Cat__Job *job, int *ret,
		    struct err *err)
{
	cleanup_fd int fd = open_lock(store, job->id, O_RDWR | O_CREAT);
	struct job_info info;
	int rc;

	if (fd < 0)
		return err_sys(err, "cannot open the lock of job '%s'", name);
	rc = lock_byte(fd, 0, F_WRLCK);
	if (rc < 0)
		return err_sys(err, "cannot lock job '%s'", name);
	if (rc == 0)
		return err_set(err, ERR_BUSY, "job '%s' is held by another pawl (pid %d)", name,
			       job->watchdog_pid);
	if (store_job_get(store, name, &info, err) < 0)
		return err->kind == ERR_NOT_FOUND ? 0 : -1;
	rc = info.id == job->id;
	job_info_clear(&info);
	if (rc)
		*ret = steal_fd(&fd);
	return rc;
}

int store_job_lock(struct store *store, const char *name, int *ret_lock, struct err *err)
{
	int rc;

	if (job_name_check(name, err) < 0)
		return -1;
	do {
		cleanup_job Cat__Job *job = NULL;

		if (job_ensure(store, name, &job, err) < 0)
			return -1;
		rc = lock_job(store, name, job, ret_lock, err);
	} while (rc == 0);
	return rc < 0 ? -1 : 0;
}

void store_job_unlock(int lock)
{
	if (lock >= 0)
		close(lock);
}

/* ---- dropping ------------------------------------------------------------------------------ */

struct seq_list {
	uint64_t *seq;
	size_t n;
};

static int note_seq(void *ctx, const struct snapshot_key *key, const MDB_val *value,
		    struct err *err)
{
	struct seq_list *list = ctx;
	uint64_t *more = reallocarray(list->seq, list->n + 1, sizeof(*more));

	if (!more)
		return err_sys(err, "cannot list snapshots");
	list->seq = more;
	list->seq[list->n++] = get_be64(key->bytes + 8);
	return 0;
}

static int remove_records(struct store *store, MDB_txn *txn, const char *name, uint64_t job,
			  struct err *err)
{
	MDB_val key = name_key(name);
	struct seq_list list = {0};
	size_t i;
	int rc = snapshot_each(store, txn, job, note_seq, &list, err);

	for (i = 0; rc == 0 && i < list.n; i++)
		rc = snapshot_remove(store, txn, job, list.seq[i], err);
	free(list.seq);
	return rc < 0 ? -1 : record_delete(txn, store->jobs, &key, name, err);
}

static void remove_files(struct store *store, const struct job_info *job)
{
	char path[PATH_MAX];

	store_job_log_path(store, job, path, sizeof(path));
	unlink(path);
	store_job_stdin_path(store, job, path, sizeof(path));
	unlink(path);
	store_job_socket_path(store, job, path, sizeof(path));
	unlink(path);
	snprintf(path, sizeof(path), "locks/%" PRIu64 ".lock", job->id);
	unlinkat(store->dir_fd, path, 0);
}

int store_job_drop(struct store *store, const char *name, struct err *err)
{
	struct job_info job;
	MDB_txn *txn;
	int lock, rc;

	if (store_job_get(store, name, &job, err) < 0)
		return -1;
	job_info_clear(&job);
	if (store_job_lock(store, name, &lock, err) < 0)
		return -1;
	if (store_job_get(store, name, &job, err) < 0) {
		store_job_unlock(lock);
		return -1;
	}
	rc = txn_write(store, &txn, err);
	if (rc == 0) {
		rc = remove_records(store, txn, name, job.id, err);
		if (rc == 0)
			rc = txn_commit(store, txn, true, err);
		else
			txn_end(store, txn);
	}
	if (rc == 0)
		remove_files(store, &job);
	store_job_unlock(lock);
	job_info_clear(&job);
	return rc;
}
