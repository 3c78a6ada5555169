#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/replica/dir.h"
#include "store/replica/dirfile.h"

/* Names that something needs, sorted. */
struct names {
	char **list;
	size_t n, room;
	int dir_fd; /* whose other names go */
};

static int names_add(struct names *names, const void *data, size_t len, struct err *err)
{
	if (names->n == names->room) {
		size_t room = names->room ? 2 * names->room : 64;
		char **more = reallocarray(names->list, room, sizeof(*more));

		if (!more)
			return err_sys(err, "what the replica needs");
		names->list = more;
		names->room = room;
	}
	names->list[names->n] = strndup(data, len);
	return names->list[names->n++] ? 0 : err_sys(err, "what the replica needs");
}

static void names_clear(struct names *names)
{
	while (names->n > 0)
		free(names->list[--names->n]);
	free(names->list);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int remove_other(void *ctx, const char *name, struct err *err)
{
	const struct names *names = ctx;

	if (!names->n ||
	    !bsearch(&name, names->list, names->n, sizeof(*names->list), compare))
		unlinkat(names->dir_fd, name, 0);
	return 0;
}

static int remove_others(struct names *names, int dir_fd, struct err *err)
{
	if (names->n)
		qsort(names->list, names->n, sizeof(*names->list), compare);
	names->dir_fd = dir_fd;
	return dirfile_each(dir_fd, remove_other, names, err);
}

struct sweep {
	struct names manifests, packs, pieces;
};

static int note_stream(struct sweep *s, const Rep__Stream *stream, struct err *err)
{
	char name[33];

	for (size_t i = 0; stream && i < stream->n_pieces; i++) {
		piece_name(stream->pieces[i]->hash.data, name);
		if (names_add(&s->pieces, name, strlen(name), err) < 0)
			return -1;
	}
	return 0;
}

static int note(struct dir_replica *r, const struct dir_job *job, const char *name,
		const Rep__Entry *entry, struct sweep *s, struct err *err)
{
	cleanup_manifest Rep__Manifest *m = NULL;

	if (manifest_read(r, job, name, entry, &m, err) < 0 ||
	    names_add(&s->manifests, entry->manifest.data, entry->manifest.len, err) < 0)
		return -1;
	for (size_t i = 0; i < m->n_packs; i++)
		if (names_add(&s->packs, m->packs[i].data, m->packs[i].len, err) < 0)
			return -1;
	return note_stream(s, m->log, err) < 0 ? -1 : note_stream(s, m->input, err);
}

int dir_sweep(struct dir_replica *r, const struct dir_job *job, const char *name,
	      const Rep__Head *head, struct err *err)
{
	struct sweep s = {0};
	int rc = 0;

	/* A manifest that cannot be read does not tell what it needs: then nothing goes. */
	for (size_t i = 0; rc == 0 && i < head->n_snapshots; i++)
		rc = note(r, job, name, head->snapshots[i], &s, err);
	if (rc == 0)
		rc = remove_others(&s.manifests, job->snapshots, err);
	if (rc == 0)
		rc = remove_others(&s.packs, job->packs, err);
	if (rc == 0)
		rc = remove_others(&s.pieces, job->pieces, err);
	names_clear(&s.manifests);
	names_clear(&s.packs);
	names_clear(&s.pieces);
	return rc;
}

/* ---- dropping ------------------------------------------------------------------------------ */

struct drop {
	const uint64_t *seqs;
	size_t n;
};

static bool is_dropped(const struct drop *d, uint64_t seq)
{
	for (size_t i = 0; i < d->n; i++)
		if (d->seqs[i] == seq)
			return true;
	return false;
}

static int drop_entries(void *ctx, Rep__Head *head, struct err *err)
{
	size_t n = 0, before = head->n_snapshots;

	for (size_t i = 0; i < before; i++) {
		if (is_dropped(ctx, head->snapshots[i]->seq))
			rep__entry__free_unpacked(head->snapshots[i], NULL);
		else
			head->snapshots[n++] = head->snapshots[i];
	}
	head->n_snapshots = n;
	return n < before;
}

int dir_drop(void *self, const struct replica_hold *hold, const uint64_t *seqs, size_t n,
	     struct err *err)
{
	cleanup_dir_job struct dir_job job = DIR_JOB_NONE;
	cleanup_head Rep__Head *head = NULL;
	struct drop drop = {seqs, n};

	if (dir_job_open(self, hold->job, false, &job, err) < 0 ||
	    head_update(self, &job, hold, drop_entries, &drop, err) < 0 ||
	    head_read(self, &job, hold->job, &head, err) < 0 ||
	    head_check_hold(head, hold, err) < 0)
		return -1;
	return dir_sweep(self, &job, hold->job, head, err);
}
