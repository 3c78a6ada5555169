#include "store/replicas.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/catalogue.h"
#include "store/hash.h"
#include "store/lock.h"

void replica_state_clear(struct replica_state *state)
{
	free(state->destination);
	free(state->error);
	free(state->marks);
	*state = (struct replica_state){0};
}

void replica_states_free(struct replica_state *states, size_t n)
{
	while (states && n > 0)
		replica_state_clear(&states[--n]);
	free(states);
}

bool replica_state_has(const struct replica_state *state, uint64_t time, uint64_t generation)
{
	for (size_t i = 0; i < state->n_marks; i++)
		if (state->marks[i].time == time && state->marks[i].generation == generation)
			return true;
	return false;
}

static bool is_nobodys(const uint8_t token[16])
{
	static const uint8_t nobody[16];

	return memcmp(token, nobody, sizeof(nobody)) == 0;
}

bool replica_state_owns(const struct replica_state *state, const uint8_t token[16])
{
	return !is_nobodys(token) && (memcmp(token, state->token, sizeof(state->token)) == 0 ||
				      memcmp(token, state->taking, sizeof(state->taking)) == 0);
}

static char *text_of(const ProtobufCBinaryData *data)
{
	return data->len ? strndup((const char *)data->data, data->len) : strdup("");
}

static int from_record(const Cat__Replica *record, struct replica_state *ret, struct err *err)
{
	struct replica_state state = {
		.destination = text_of(&record->destination),
		.error = record->error.len ? text_of(&record->error) : NULL,
		.tried = record->tried,
		.reached = record->reached,
		.marks = calloc(record->n_marks + 1, sizeof(*state.marks)),
	};

	if (!state.destination || !state.marks || (record->error.len && !state.error)) {
		err_sys(err, "the job's replicas");
		replica_state_clear(&state);
		return -1;
	}
	if (record->token.len == sizeof(state.token))
		memcpy(state.token, record->token.data, sizeof(state.token));
	if (record->taking.len == sizeof(state.taking))
		memcpy(state.taking, record->taking.data, sizeof(state.taking));
	for (; state.n_marks < record->n_marks; state.n_marks++) {
		const Cat__Mark *mark = record->marks[state.n_marks];

		state.marks[state.n_marks] =
			(struct replica_mark){mark->seq, mark->generation, mark->time};
	}
	*ret = state;
	return 0;
}

static int states_from_record(const Cat__Job *job, struct replica_state **ret, size_t *ret_n,
			      struct err *err)
{
	struct replica_state *states = calloc(job->n_replicas + 1, sizeof(*states));

	if (!states)
		return err_sys(err, "the job's replicas");
	for (size_t i = 0; i < job->n_replicas; i++)
		if (from_record(job->replicas[i], &states[i], err) < 0) {
			replica_states_free(states, i);
			return -1;
		}
	*ret = states;
	*ret_n = job->n_replicas;
	return 0;
}

int store_replicas_get(struct store *store, const char *name, struct replica_state **ret,
		       size_t *ret_n, struct err *err)
{
	cleanup_job Cat__Job *job = NULL;

	if (job_load(store, name, &job, err) < 0)
		return -1;
	return states_from_record(job, ret, ret_n, err);
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Borrows from state. marks and pointers have room for all of them. */
static void to_record(const struct replica_state *state, Cat__Mark *marks, Cat__Mark **pointers,
		      Cat__Replica *ret)
{
	*ret = (Cat__Replica)CAT__REPLICA__INIT;
	ret->destination = (ProtobufCBinaryData){strlen(state->destination),
						 (uint8_t *)state->destination};
	ret->token = (ProtobufCBinaryData){sizeof(state->token), (uint8_t *)state->token};
	if (!is_nobodys(state->taking))
		ret->taking = (ProtobufCBinaryData){sizeof(state->taking), (uint8_t *)state->taking};
	ret->tried = state->tried;
	ret->reached = state->reached;
	if (state->error)
		ret->error = (ProtobufCBinaryData){strlen(state->error), (uint8_t *)state->error};
	ret->n_marks = state->n_marks;
	ret->marks = pointers;
	for (size_t i = 0; i < state->n_marks; i++) {
		marks[i] = (Cat__Mark)CAT__MARK__INIT;
		marks[i].seq = state->marks[i].seq;
		marks[i].generation = state->marks[i].generation;
		marks[i].time = state->marks[i].time;
		pointers[i] = &marks[i];
	}
}

static bool is_same(const Cat__Replica *a, const Cat__Replica *b)
{
	return a->destination.len == b->destination.len &&
	       memcmp(a->destination.data, b->destination.data, a->destination.len) == 0;
}

/* Writes the job with its list of replicas altered for the moment of writing. */
static int write_with(struct store *store, MDB_txn *txn, const char *name, Cat__Job *job,
		      Cat__Replica *replica, struct err *err)
{
	Cat__Replica **old = job->replicas, **list;
	size_t n_old = job->n_replicas, i;
	int rc;

	list = calloc(n_old + 1, sizeof(*list));
	if (!list)
		return err_sys(err, "the job's replicas");
	if (n_old)
		memcpy(list, old, n_old * sizeof(*list));
	for (i = 0; i < n_old && !is_same(list[i], replica); i++)
		;
	list[i] = replica;
	job->replicas = list;
	job->n_replicas = i == n_old ? n_old + 1 : n_old;
	rc = job_write(store, txn, name, job, err);
	job->replicas = old;
	job->n_replicas = n_old;
	free(list);
	return rc;
}

int store_replica_put(struct store *store, const char *name, const struct replica_state *state,
		      struct err *err)
{
	Cat__Mark *marks = calloc(state->n_marks + 1, sizeof(*marks));
	Cat__Mark **pointers = calloc(state->n_marks + 1, sizeof(*pointers));
	cleanup_job Cat__Job *job = NULL;
	Cat__Replica replica;
	MDB_txn *txn = NULL;
	int rc;

	rc = marks && pointers ? txn_write(store, &txn, err) : err_sys(err, "the job's replicas");
	if (rc == 0) {
		to_record(state, marks, pointers, &replica);
		rc = job_read(store, txn, name, &job, err);
		if (rc == 0)
			rc = write_with(store, txn, name, job, &replica, err);
		if (rc == 0)
			rc = txn_commit(store, txn, true, err);
		else
			txn_end(store, txn);
	}
	free(marks);
	free(pointers);
	return rc;
}

int store_replica_taking(struct store *store, const char *name, const char *destination, const uint8_t token[16],
			 struct err *err)
{
	struct replica_state fresh = {.destination = (char *)destination}, *states, *state = &fresh;
	size_t n;
	int rc;

	if (store_replicas_get(store, name, &states, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (strcmp(states[i].destination, destination) == 0)
			state = &states[i];
	memcpy(state->taking, token, sizeof(state->taking));
	rc = store_replica_put(store, name, state, err);
	replica_states_free(states, n);
	return rc;
}

/* Byte 0 is the watchdog's, the others stand for destinations. */
int store_replica_lock(struct store *store, const char *name, const char *destination, int *ret,
		       struct err *err)
{
	struct sum_part part = {destination, strlen(destination)};
	uint64_t byte = 1 + (checksum_parts(&store->secret, &part, 1) & INT32_MAX);
	cleanup_fd int fd = -1;
	struct job_info job;
	char path[64];
	int rc;

	if (store_job_get(store, name, &job, err) < 0)
		return -1;
	snprintf(path, sizeof(path), "locks/%" PRIu64 ".lock", job.id);
	job_info_clear(&job);
	fd = openat(store->dir_fd, path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	rc = fd < 0 ? -1 : lock_byte(fd, byte, F_WRLCK);
	if (rc < 0)
		return err_sys(err, "cannot lock job '%s'", name);
	if (rc == 0)
		return err_set(err, ERR_BUSY, "another pawl is copying job '%s' to %s", name,
			       destination);
	*ret = steal_fd(&fd);
	return 0;
}
