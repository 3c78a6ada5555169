#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/env.h"
#include "store/lock.h"
#include "store/place.h"
#include "store/salvage.h"
#include "store/session.h"
#include "store/txn.h"

static int open_dir(struct store *store, const char *dir, struct err *err)
{
	char path[PATH_MAX];

	if ((store->flags & STORE_CREATE) && make_dirs(dir, 0700, err) < 0)
		return -1;
	if (!realpath(dir, path)) {
		if (errno == ENOENT)
			return err_set(err, ERR_NOT_FOUND, "%s: there is no store", dir);
		return err_sys(err, "%s", dir);
	}
	store->dir = strdup(path);
	store->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!store->dir || store->dir_fd < 0)
		return err_sys(err, "%s", dir);
	if (place_check_owner(store->dir_fd, dir, store->flags & STORE_WRITE, err) < 0)
		return -1;
	if (store->flags & STORE_ANY_FS)
		return 0;
	return place_check_fs(store->dir_fd, dir, err);
}

/* Everyone who has the store open holds LOCK_USERS; waits while somebody compacts it. */
static int lock_users(struct store *store, struct err *err)
{
	store->lock_fd = openat(store->dir_fd, "store.lock",
				O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (store->lock_fd < 0 && !(store->flags & STORE_WRITE))
		store->lock_fd = openat(store->dir_fd, "store.lock",
					O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (store->lock_fd < 0)
		return err_sys(err, "%s: cannot open store.lock", store->dir);
	if (lock_byte_wait(store->lock_fd, LOCK_USERS, F_RDLCK, -1) < 0)
		return err_sys(err, "%s: cannot lock", store->dir);
	return 0;
}

static bool has_data(struct store *store)
{
	return faccessat(store->dir_fd, "data.mdb", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int make_store(struct store *store, struct err *err)
{
	int rc = 0;

	if (lock_byte_wait(store->lock_fd, LOCK_MAKE, F_WRLCK, -1) < 0)
		return err_sys(err, "%s: cannot lock", store->dir);
	if (!has_data(store)) /* else somebody made it while we waited */
		rc = env_make(store, NULL, err);
	lock_byte(store->lock_fd, LOCK_MAKE, F_UNLCK);
	return rc;
}

static int prepare_dir(struct store *store, struct err *err)
{
	bool there = has_data(store);

	if (!there && !(store->flags & STORE_CREATE))
		return err_set(err, ERR_NOT_FOUND, "%s: there is no store", store->dir);
	if (!there && place_check_empty(store->dir_fd, store->dir, err) < 0)
		return -1;
	if (lock_users(store, err) < 0)
		return -1;
	if ((store->flags & STORE_WRITE) &&
	    place_make_folders(store->dir_fd, store->dir, err) < 0)
		return -1;
	return there ? 0 : make_store(store, err);
}

static struct store *store_new(int flags)
{
	struct store *store = calloc(1, sizeof(*store));

	if (!store)
		return NULL;
	store->flags = flags & STORE_CREATE ? flags | STORE_WRITE : flags;
	store->dir_fd = store->lock_fd = -1;
	pthread_rwlock_init(&store->map_lock, NULL);
	pthread_mutex_init(&store->gc_mutex, NULL);
	pthread_mutex_init(&store->past_mutex, NULL);
	pthread_mutex_init(&store->hashes_mutex, NULL);
	return store;
}

int store_open(struct store **ret, const char *dir, int flags, struct err *err)
{
	struct store *store = store_new(flags);

	if (!store)
		return err_sys(err, "%s", dir);
	if (open_dir(store, dir, err) < 0 || prepare_dir(store, err) < 0 ||
	    env_open(store, err) < 0)
		goto fail;
	if ((store->flags & STORE_WRITE) && sessions_reclaim(store, err) < 0 &&
	    err->kind != ERR_FULL)
		goto fail;
	*ret = store;
	return 0;
fail:
	store_close(store);
	return -1;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	env_close(store);
	if (store->lock_fd >= 0)
		close(store->lock_fd);
	if (store->dir_fd >= 0)
		close(store->dir_fd);
	pthread_rwlock_destroy(&store->map_lock);
	pthread_mutex_destroy(&store->gc_mutex);
	pthread_mutex_destroy(&store->past_mutex);
	pthread_mutex_destroy(&store->hashes_mutex);
	hash_cache_forget(store);
	dedup_clear(&store->kept_room);
	idset_clear(&store->read_past);
	explicit_bzero(&store->secret, sizeof(store->secret));
	free(store->dir);
	free(store);
}

/* A new data.mdb, with what there is of the old one. */
static int salvage_file(const char *dir, int flags, struct err *err)
{
	struct store *store = store_new((flags & STORE_ANY_FS) | STORE_WRITE);
	int rc;

	if (!store)
		return err_sys(err, "%s", dir);
	rc = open_dir(store, dir, err);
	if (rc == 0 && !has_data(store))
		rc = err_set(err, ERR_NOT_FOUND, "%s: there is no store", dir);
	if (rc == 0)
		rc = lock_users(store, err);
	if (rc == 0 && (rc = lock_byte(store->lock_fd, LOCK_USERS, F_WRLCK)) == 0)
		rc = err_set(err, ERR_BUSY, "%s: another pawl has the store open", dir);
	if (rc == 1)
		rc = salvage_env(store, err);
	store_close(store);
	return rc < 0 ? -1 : 0;
}

/* What of it does not verify is dropped. */
static int salvage_job(struct store *store, const char *job, struct salvage_stats *stats, struct err *err)
{
	struct snapshot_info *list;
	uint64_t problems;
	size_t i, n;
	int rc = 0;

	if (store_snapshot_list(store, job, &list, &n, err) < 0)
		return -1;
	for (i = 0; i < n && rc == 0; i++) {
		rc = store_verify(store, job, list[i].seq, NULL, NULL, &problems, err);
		if (rc < 0)
			break;
		if (problems) {
			stats->lost++;
			rc = store_snapshot_drop(store, job, list[i].seq, err);
		} else {
			stats->snapshots++;
		}
	}
	free(list);
	return rc;
}

int store_salvage(const char *dir, int flags, struct salvage_stats *ret, struct err *err)
{
	struct salvage_stats stats = {0};
	struct store *store;
	struct job_info *jobs = NULL;
	size_t i, n;
	int rc;

	if (salvage_file(dir, flags, err) < 0 ||
	    store_open(&store, dir, (flags & STORE_ANY_FS) | STORE_WRITE, err) < 0)
		return -1;
	rc = store_job_list(store, &jobs, &n, err);
	stats.jobs = rc == 0 ? n : 0;
	for (i = 0; i < stats.jobs; i++) {
		if (rc == 0)
			rc = salvage_job(store, jobs[i].name, &stats, err);
		job_info_clear(&jobs[i]);
	}
	free(jobs);
	if (rc == 0)
		rc = store_gc(store, 0, NULL, err);
	store_close(store);
	if (rc == 0)
		*ret = stats;
	return rc;
}

const char *store_dir(const struct store *store)
{
	return store->dir;
}

static void job_path(const struct store *store, const char *folder, uint64_t job,
		     const char *suffix, char *buf, size_t len)
{
	snprintf(buf, len, "%s/%s/%llu.%s", store->dir, folder, (unsigned long long)job, suffix);
}

void store_job_log_path(const struct store *store, const struct job_info *job, char *buf, size_t len)
{
	job_path(store, "logs", job->id, "log", buf, len);
}

void store_job_stdin_path(const struct store *store, const struct job_info *job, char *buf,
			  size_t len)
{
	job_path(store, "logs", job->id, "stdin", buf, len);
}

void store_job_socket_path(const struct store *store, const struct job_info *job, char *buf,
			   size_t len)
{
	job_path(store, "run", job->id, "sock", buf, len);
}
