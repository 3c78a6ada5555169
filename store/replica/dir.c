#include "store/replica/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/bytes.h"
#include "store/place.h"
#include "store/record.h"
#include "store/replica/dirfile.h"

#define MARK	      "pawl-replica"
#define MAGIC_REPLICA MAGIC('P', 'R', 'E', 'P')
#define MARK_VERSION  1u

enum { /* the mark's payload */
	AT_VERSION = 0,
	AT_UUID = 8,
	AT_SECRET = 24,
	MARK_BYTES = 216,
};
#define MARK_FILE_BYTES (2 * (FRAME_HEADER + MARK_BYTES))

/* ---- the directory ------------------------------------------------------------------------- */

static bool has_parent(const char *path)
{
	cleanup_free char *parent = strdup(path);
	char *slash = parent ? strrchr(parent, '/') : NULL;

	if (!slash || slash == parent)
		return slash;
	*slash = '\0';
	return access(parent, F_OK) == 0;
}

/* It may be a mount that is not there now: only the last part of the path is made, and only before it was seen. */
static int open_path(struct dir_replica *r, bool make, struct err *err)
{
	cleanup_fd int fd = -1;

	if (make && !r->met && mkdir(r->path, 0700) < 0 && errno != EEXIST)
		return err_set(err, ERR_UNREACHABLE, "cannot make the directory: %s",
			       strerror(errno));
	fd = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && !r->met && has_parent(r->path))
		return err_set(err, ERR_NOT_FOUND, "there is no replica yet");
	if (fd < 0)
		return err_set(err, ERR_UNREACHABLE, "cannot open the directory: %s",
			       strerror(errno));
	if (place_check_owner(fd, r->path, true, err) < 0)
		return -1;
	return steal_fd(&fd);
}

static int make_mark(int dir_fd, struct err *err)
{
	uint8_t mark[MARK_FILE_BYTES] = {0};
	uint8_t *p = mark + FRAME_HEADER;

	put_le32(p + AT_VERSION, MARK_VERSION);
	if (getrandom(p + AT_UUID, MARK_BYTES - AT_UUID, 0) != MARK_BYTES - AT_UUID)
		return err_sys(err, "random number");
	frame_seal_twice(mark, MARK_BYTES, MAGIC_REPLICA, MARK, strlen(MARK), NULL);
	return dirfile_claim(dir_fd, MARK, mark, sizeof(mark), err) < 0 ? -1 : 0;
}

static int read_mark(struct dir_replica *r, int dir_fd, struct err *err)
{
	cleanup_free uint8_t *bytes = NULL;
	struct frame frame;
	size_t len;

	if (dirfile_read(dir_fd, MARK, 1 << 16, &bytes, &len, err) < 0)
		return -1;
	if (frame_open_twice(&frame, bytes, len, MAGIC_REPLICA, MARK, strlen(MARK), NULL, NULL,
			     err) < 0)
		return err_wrap(err, MARK);
	if (frame.len < MARK_BYTES || get_le32(frame.payload + AT_VERSION) != MARK_VERSION)
		return err_set(err, ERR_VERSION, "the replica is of a newer format");
	if (r->met && memcmp(r->uuid, frame.payload + AT_UUID, sizeof(r->uuid)) != 0)
		return err_set(err, ERR_UNREACHABLE,
			       "another replica stands there now: is it the right mount?");
	memcpy(r->uuid, frame.payload + AT_UUID, sizeof(r->uuid));
	memcpy(r->secret.bytes, frame.payload + AT_SECRET, sizeof(r->secret.bytes));
	r->met = true;
	return 0;
}

int dir_enter(struct dir_replica *r, bool make, struct err *err)
{
	cleanup_fd int fd = open_path(r, make, err);

	if (fd < 0)
		return -1;
	if (read_mark(r, fd, err) == 0)
		return steal_fd(&fd);
	if (err->kind != ERR_NOT_FOUND)
		return -1;
	if (r->met)
		return err_set(err, ERR_UNREACHABLE,
			       "the replica is not there: is the file system mounted?");
	if (!make)
		return err_set(err, ERR_NOT_FOUND, "there is no replica");
	if (make_mark(fd, err) < 0 || read_mark(r, fd, err) < 0)
		return -1;
	return steal_fd(&fd);
}

static int open_folders(int root, const char *name, bool make, struct dir_job *job,
			struct err *err)
{
	cleanup_fd int jobs = dirfile_folder(root, "jobs", make, err);

	if (jobs < 0 || (job->job = dirfile_folder(jobs, name, make, err)) < 0 ||
	    (job->heads = dirfile_folder(job->job, "heads", make, err)) < 0 ||
	    (job->snapshots = dirfile_folder(job->job, "snapshots", make, err)) < 0 ||
	    (job->packs = dirfile_folder(job->job, "packs", make, err)) < 0 ||
	    (job->pieces = dirfile_folder(job->job, "pieces", make, err)) < 0)
		return -1;
	return 0;
}

int dir_job_open(struct dir_replica *r, const char *name, bool make, struct dir_job *ret,
		 struct err *err)
{
	cleanup_fd int root = dir_enter(r, make, err);
	struct dir_job job = DIR_JOB_NONE;

	if (root < 0)
		return -1;
	if (open_folders(root, name, make, &job, err) < 0) {
		dir_job_close(&job);
		return err->kind == ERR_NOT_FOUND
			       ? err_set(err, ERR_NOT_FOUND, "there is no job '%s'", name)
			       : err_wrap(err, "jobs/%s", name);
	}
	*ret = job;
	return 0;
}

void dir_job_close(struct dir_job *job)
{
	int *const fds[] = {&job->job, &job->heads, &job->snapshots, &job->packs, &job->pieces};

	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		if (*fds[i] >= 0)
			close(*fds[i]);
	*job = (struct dir_job)DIR_JOB_NONE;
}

/* ---- looking ------------------------------------------------------------------------------- */

static int fill_snapshots(const Rep__Head *head, struct replica_job *ret, struct err *err)
{
	ret->snapshots = calloc(head->n_snapshots + 1, sizeof(*ret->snapshots));
	if (!ret->snapshots)
		return err_sys(err, "list of snapshots");
	for (size_t i = 0; i < head->n_snapshots; i++) {
		const Rep__Entry *e = head->snapshots[i];

		ret->snapshots[ret->n_snapshots++] = (struct replica_snapshot){
			.seq = e->seq,
			.generation = e->generation,
			.time = e->time,
			.bytes = e->bytes,
			.final = e->final,
		};
	}
	return 0;
}

static int dir_look(void *self, const char *name, struct replica_job *ret, struct err *err)
{
	cleanup_dir_job struct dir_job job = DIR_JOB_NONE;
	cleanup_head Rep__Head *head = NULL;
	struct replica_job result = {0};

	if (dir_job_open(self, name, false, &job, err) < 0 ||
	    head_read(self, &job, name, &head, err) < 0)
		return -1;
	result.version = head->version;
	result.taken = head->taken;
	memcpy(result.token, head->token.data, REPLICA_TOKEN);
	snprintf(result.holder, sizeof(result.holder), "%.*s", (int)head->holder.len,
		 head->holder.len ? (const char *)head->holder.data : "");
	for (char *c = result.holder; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = '?';
	if (job_from_message(head->job, name, &result.job, err) < 0 ||
	    fill_snapshots(head, &result, err) < 0) {
		replica_job_clear(&result);
		return -1;
	}
	*ret = result;
	return 0;
}

/* ---- taking -------------------------------------------------------------------------------- */

static int set_job(Rep__Head *head, const struct job_info *info, struct err *err)
{
	cleanup_free ProtobufCBinaryData *texts =
		calloc(info->argc + info->n_options + 1, sizeof(*texts));
	cleanup_free uint8_t *bytes = NULL;
	Rep__Job borrowed, *copy;

	if (!texts)
		return err_sys(err, "the job's record");
	job_to_message(info, texts, &borrowed);
	bytes = malloc(rep__job__get_packed_size(&borrowed) + 1);
	if (!bytes)
		return err_sys(err, "the job's record");
	copy = rep__job__unpack(NULL, rep__job__pack(&borrowed, bytes), bytes);
	if (!copy)
		return err_sys(err, "the job's record");
	rep__job__free_unpacked(head->job, NULL);
	head->job = copy;
	return 0;
}

static int set_holder(Rep__Head *head, const uint8_t token[REPLICA_TOKEN], struct err *err)
{
	char host[HOST_NAME_MAX + 1] = "?", text[160];

	gethostname(host, sizeof(host) - 1);
	snprintf(text, sizeof(text), "%s, process %d", host, (int)getpid());
	head->taken = clock_ns(CLOCK_REALTIME);
	if (set_bytes(&head->holder, text, strlen(text), err) < 0)
		return -1;
	return set_bytes(&head->token, token, REPLICA_TOKEN, err);
}

/* The head as it was seen, or a first one. 1: the hold is the one it has already. */
static int seen_head(struct dir_replica *r, const struct dir_job *job, const struct replica_hold *hold,
		     const struct replica_job *seen, Rep__Head **ret, struct err *err)
{
	int rc = head_read(r, job, hold->job, ret, err);

	if (rc < 0 && (err->kind != ERR_NOT_FOUND || seen))
		return -1;
	if (rc == 0 && head_check_hold(*ret, hold, err) == 0)
		return 1;
	if (rc == 0 && (!seen || (*ret)->version != seen->version))
		return err_set(err, ERR_FENCED, "job '%s' was resumed or saved at this moment by %.*s",
			       hold->job, (int)(*ret)->holder.len, (const char *)(*ret)->holder.data);
	if (rc < 0) {
		*ret = malloc(sizeof(**ret));
		if (!*ret)
			return err_sys(err, "the state of job '%s'", hold->job);
		rep__head__init(*ret);
	}
	return 0;
}

static int dir_take(void *self, const struct job_info *info, const struct replica_job *seen,
		    struct replica_hold *hold, struct err *err)
{
	cleanup_dir_job struct dir_job job = DIR_JOB_NONE;
	cleanup_head Rep__Head *head = NULL;
	int rc;

	if (dir_job_open(self, info->name, true, &job, err) < 0)
		return -1;
	rc = seen_head(self, &job, hold, seen, &head, err);
	if (rc != 0)
		return rc < 0 ? -1 : 0;
	if (set_job(head, info, err) < 0 || set_holder(head, hold->token, err) < 0)
		return -1;
	rc = head_replace(self, &job, info->name, head, err);
	if (rc < 0)
		return -1;
	if (rc == 0)
		return err_set(err, ERR_FENCED, "job '%s' was resumed or saved at this moment by "
						"somebody else", info->name);
	return 0;
}

static int change_job(void *ctx, Rep__Head *head, struct err *err)
{
	return set_job(head, ctx, err) < 0 ? -1 : 1;
}

static int dir_put_job(void *self, const struct replica_hold *hold, const struct job_info *info,
		       struct err *err)
{
	cleanup_dir_job struct dir_job job = DIR_JOB_NONE;

	if (dir_job_open(self, hold->job, false, &job, err) < 0)
		return -1;
	return head_update(self, &job, hold, change_job, (void *)info, err);
}

/* ---- opening ------------------------------------------------------------------------------- */

static void dir_close(void *self)
{
	struct dir_replica *r = self;

	known_free(r->known);
	explicit_bzero(&r->secret, sizeof(r->secret));
	free(r->path);
	free(r);
}

static const struct destination_ops ops = {
	.look = dir_look,
	.take = dir_take,
	.push = dir_push,
	.put_job = dir_put_job,
	.drop = dir_drop,
	.pull = dir_pull,
	.close = dir_close,
};

int dir_destination_open(void **ret_self, const struct destination_ops **ret_ops, const char *rest,
			 struct err *err)
{
	struct dir_replica *r = calloc(1, sizeof(*r));

	if (!r || !(r->path = strdup(rest))) {
		free(r);
		return err_sys(err, "%s", rest);
	}
	*ret_self = r;
	*ret_ops = &ops;
	return 0;
}
