#include "store/replica/destination.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "store/base/cleanup.h"
#include "store/replicas.h"

struct destination {
	char *text;
	void *self;
	const struct destination_ops *ops;
};

typedef int open_fn(void **ret_self, const struct destination_ops **ret_ops, const char *rest,
		    struct err *err);

static const struct kind {
	const char *prefix;
	open_fn *open;
} kinds[] = {
	{"dir:", dir_destination_open},
	{"ssh://", ssh_destination_open},
};

static const struct kind *find_kind(const char *text, const char **ret_rest, struct err *err)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		size_t len = strlen(kinds[i].prefix);

		if (strncmp(text, kinds[i].prefix, len) != 0)
			continue;
		*ret_rest = text + len;
		if (**ret_rest == '\0')
			break;
		return &kinds[i];
	}
	err_set(err, ERR_INVALID,
		"destination '%.200s' is neither dir:/PATH nor ssh://[USER@]HOST[/STORE]", text);
	return NULL;
}

int destination_check(const char *text, struct err *err)
{
	const char *rest;
	const struct kind *kind = find_kind(text, &rest, err);

	if (!kind)
		return -1;
	if (kind->open == dir_destination_open && *rest != '/')
		return err_set(err, ERR_INVALID, "destination '%.200s': the path must be absolute",
			       text);
	return 0;
}

int destination_open(struct destination **ret, const char *text, struct err *err)
{
	struct destination *d;
	const char *rest;
	const struct kind *kind;

	if (destination_check(text, err) < 0 || !(kind = find_kind(text, &rest, err)))
		return -1;
	d = calloc(1, sizeof(*d));
	if (!d || !(d->text = strdup(text))) {
		free(d);
		return err_sys(err, "%s", text);
	}
	if (kind->open(&d->self, &d->ops, rest, err) < 0) {
		free(d->text);
		free(d);
		return -1;
	}
	*ret = d;
	return 0;
}

void destination_close(struct destination *d)
{
	if (!d)
		return;
	d->ops->close(d->self);
	free(d->text);
	free(d);
}

const char *destination_text(const struct destination *d)
{
	return d->text;
}

void replica_job_clear(struct replica_job *job)
{
	job_info_clear(&job->job);
	free(job->snapshots);
	*job = (struct replica_job){0};
}

/* Names become parts of paths and commands there. */
static int check_name(const struct destination *d, const char *job, struct err *err)
{
	return job_name_check(job, err) < 0 ? err_wrap(err, "%s", d->text) : 0;
}

void destination_environment(struct destination *d, char **environment)
{
	if (d->ops->environment)
		d->ops->environment(d->self, environment);
}

int destination_look(struct destination *d, const char *job, struct replica_job *ret,
		     struct err *err)
{
	if (check_name(d, job, err) < 0)
		return -1;
	return d->ops->look(d->self, job, ret, err) < 0 ? err_wrap(err, "%s", d->text) : 0;
}

int replica_token_make(uint8_t ret[REPLICA_TOKEN], struct err *err)
{
	return getrandom(ret, REPLICA_TOKEN, 0) == REPLICA_TOKEN ? 0 : err_sys(err, "random number");
}

int destination_take_as(struct destination *d, const struct job_info *job, const struct replica_job *seen,
			const uint8_t token[REPLICA_TOKEN], struct replica_hold *ret, struct err *err)
{
	struct replica_hold hold = {0};

	if (check_name(d, job->name, err) < 0)
		return -1;
	snprintf(hold.job, sizeof(hold.job), "%s", job->name);
	memcpy(hold.token, token, sizeof(hold.token));
	if (d->ops->take(d->self, job, seen, &hold, err) < 0)
		return err_wrap(err, "%s", d->text);
	*ret = hold;
	return 0;
}

int destination_take(struct destination *d, const struct job_info *job,
		     const struct replica_job *seen, struct replica_hold *ret, struct err *err)
{
	uint8_t token[REPLICA_TOKEN];

	if (replica_token_make(token, err) < 0)
		return -1;
	return destination_take_as(d, job, seen, token, ret, err);
}

int destination_push(struct destination *d, const struct replica_hold *hold, struct store *store,
		     uint64_t seq, const struct replica_watch *watch, struct replica_stats *ret,
		     struct err *err)
{
	cleanup_fd int lock = -1;

	if (check_name(d, hold->job, err) < 0 ||
	    store_replica_lock(store, hold->job, d->text, &lock, err) < 0)
		return -1;
	return d->ops->push(d->self, hold, store, seq, watch, ret, err) < 0
		       ? err_wrap(err, "%s", d->text)
		       : 0;
}

int destination_put_job(struct destination *d, const struct replica_hold *hold,
			const struct job_info *job, struct err *err)
{
	if (check_name(d, hold->job, err) < 0)
		return -1;
	return d->ops->put_job(d->self, hold, job, err) < 0 ? err_wrap(err, "%s", d->text) : 0;
}

int destination_drop(struct destination *d, const struct replica_hold *hold, const uint64_t *seqs,
		     size_t n, struct err *err)
{
	if (check_name(d, hold->job, err) < 0)
		return -1;
	return d->ops->drop(d->self, hold, seqs, n, err) < 0 ? err_wrap(err, "%s", d->text) : 0;
}

int destination_pull(struct destination *d, const char *job, uint64_t seq, struct store *store,
		     const struct replica_watch *watch, struct replica_stats *ret, struct err *err)
{
	if (check_name(d, job, err) < 0)
		return -1;
	return d->ops->pull(d->self, job, seq, store, watch, ret, err) < 0
		       ? err_wrap(err, "%s", d->text)
		       : 0;
}
