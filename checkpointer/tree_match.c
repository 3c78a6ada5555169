/* Which object of a directory tree is which one of the last snapshot's. Pure, but for the page
 * table. */
#include <stdlib.h>
#include <string.h>

#include "checkpointer/tree_impl.h"

/* File times advance with the timer tick, 10 ms at the slowest (HZ=100); doubled. */
#define TIME_GRAIN_NS 20000000ll

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory for a directory tree");
}

/* Whether o is what it was when `was` was read, not before `since` (CLOCK_REALTIME). */
static bool is_steady(const struct tree_object *o, const struct tree_object *was, uint64_t since,
		      bool no_times)
{
	int64_t latest = o->mtime > o->ctime ? o->mtime : o->ctime;

	if (o->device != was->device || o->inode != was->inode || o->mtime != was->mtime ||
	    o->ctime != was->ctime || latest + TIME_GRAIN_NS >= (int64_t)since)
		return false;
	if (o->kind != TREE_REGULAR)
		return true;
	return o->size == was->size && !no_times && !(was->flags & TREE_UNSTEADY);
}

static int take_details(struct tree_object *o, const struct tree_object *was)
{
	if (was->target && !(o->target = strdup(was->target)))
		return -1;
	if (was->xattrs_len) {
		o->xattrs = malloc(was->xattrs_len);
		if (!o->xattrs)
			return -1;
		memcpy(o->xattrs, was->xattrs, was->xattrs_len);
		o->xattrs_len = was->xattrs_len;
	}
	return 0;
}

/* What is to be read of an object. The names of a directory have been, or could not be. */
static uint8_t all_of(const struct tree_object *o)
{
	return o->kind == TREE_DIRECTORY ? TREE_DETAILS_AGAIN
					 : TREE_DETAILS_AGAIN | TREE_READ_AGAIN;
}

/* o goes on from what it was: where its content lies, and (unchanged) what it is. */
static int take_over(struct tree_object *o, const struct tree_object *was, bool steady)
{
	o->content = was->content;
	o->xattr_content = was->xattr_content;
	if (!steady)
		return 0;
	o->mark &= (uint8_t)~all_of(o);
	return take_details(o, was);
}

static int match_by_inode(struct saved_tree *t, struct err *err)
{
	struct tree_index index = {0};
	int result = 0;

	for (uint32_t i = 0; i < t->prev.n && result == 0; i++) {
		t->prev.objects[i].other = TREE_NOWHERE;
		if (t->prev.objects[i].kind != TREE_NONE)
			result = tree_index_add(&index, &t->prev, i);
	}
	for (uint32_t i = 0; i < t->now.n && result == 0; i++) {
		struct tree_object *o = &t->now.objects[i], *was;
		uint32_t id = tree_index_find(&index, &t->prev, o->device, o->inode);

		o->other = TREE_NOWHERE;
		if (id == TREE_NOWHERE)
			continue;
		was = &t->prev.objects[id];
		/* The root has place 0, and no other object has. */
		if (was->kind != o->kind || was->other != TREE_NOWHERE || (id == 0) != (i == 0))
			continue;
		o->other = id;
		was->other = i;
		result = take_over(o, was, is_steady(o, was, t->prev_walked, t->no_times));
	}
	tree_index_clear(&index);
	return result < 0 ? no_memory(err) : 0;
}

/* What has the name that another had, goes on from there: of a file that was written anew and
 * renamed only the pages that differ are stored. */
static void match_by_name(struct saved_tree *t)
{
	for (uint32_t i = 0; i < t->now.n; i++) {
		struct tree_object *o = &t->now.objects[i];
		const struct tree_entry *e;
		uint32_t dir, id = 0;

		if (o->other != TREE_NOWHERE || (i && o->parent == TREE_NOWHERE))
			continue;
		if (i) {
			dir = t->now.objects[o->parent].other;
			e = dir == TREE_NOWHERE ? NULL : tree_find(&t->prev.objects[dir], o->name);
			if (!e)
				continue;
			id = e->object;
		}
		if (id >= t->prev.n || t->prev.objects[id].kind != o->kind ||
		    t->prev.objects[id].other != TREE_NOWHERE)
			continue;
		o->other = id;
		t->prev.objects[id].other = i;
		take_over(o, &t->prev.objects[id], false);
	}
}

int tree_match(struct saved_tree *t, struct err *err)
{
	for (uint32_t i = 0; i < t->now.n; i++) {
		t->now.objects[i].other = TREE_NOWHERE;
		t->now.objects[i].mark |= all_of(&t->now.objects[i]);
	}
	if (match_by_inode(t, err) < 0)
		return -1;
	match_by_name(t);
	return 0;
}

/* What only the first walk had met, and perhaps put into the table. */
static int clear_ahead(struct saved_tree *t, const struct tree *ahead, struct err *err)
{
	for (uint32_t i = 0; i < ahead->n; i++) {
		const struct tree_object *o = &ahead->objects[i];

		if (o->kind != TREE_NONE && o->content.room &&
		    page_table_clear(t->contents, o->content.first, o->content.room, err) < 0)
			return -1;
	}
	return 0;
}

int tree_match_ahead(struct saved_tree *t, struct tree *ahead, struct err *err)
{
	struct tree_index index = {0};
	int result = 0;

	for (uint32_t i = 0; i < ahead->n && result == 0; i++)
		result = tree_index_add(&index, ahead, i);
	for (uint32_t i = 0; i < t->now.n && result == 0; i++) {
		struct tree_object *o = &t->now.objects[i], *was;
		uint32_t id = tree_index_find(&index, ahead, o->device, o->inode);

		o->other = TREE_NOWHERE;
		o->mark |= all_of(o);
		was = id == TREE_NOWHERE ? NULL : &ahead->objects[id];
		if (!was || was->kind != o->kind)
			continue;
		o->other = was->other;
		o->flags |= was->flags;
		result = take_over(o, was, !was->mark && is_steady(o, was, t->walked, t->no_times));
		/* Nobody else may take it over. */
		was->kind = TREE_NONE;
	}
	tree_index_clear(&index);
	return result < 0 ? no_memory(err) : clear_ahead(t, ahead, err);
}

/* ---- places -------------------------------------------------------------------------------- */

static int clear_gone(struct saved_tree *t, struct err *err)
{
	for (uint32_t i = 0; i < t->prev.n; i++) {
		const struct tree_object *was = &t->prev.objects[i];

		if (was->kind == TREE_NONE || was->other != TREE_NOWHERE)
			continue;
		if (page_table_clear(t->contents, was->content.first, was->content.room, err) < 0 ||
		    page_table_clear(t->contents, was->xattr_content.first, was->xattr_content.room,
				     err) < 0)
			return -1;
	}
	return 0;
}

/* What was given room while the job ran, but is gone at the freeze. */
static int clear_vanished(struct saved_tree *t, struct err *err)
{
	for (uint32_t i = 0; i < t->now.n; i++) {
		struct tree_object *o = &t->now.objects[i];

		if (o->names || !o->content.room)
			continue;
		if (page_table_clear(t->contents, o->content.first, o->content.room, err) < 0)
			return -1;
		o->content = (struct tree_stretch){0};
	}
	return 0;
}

/* New ones do not take the contents of what they go on from: that was decided while the job ran. */
static void settle(struct saved_tree *t)
{
	for (uint32_t i = 0; i < t->prev.n; i++)
		t->prev.objects[i].other = TREE_NOWHERE;
	for (uint32_t i = 0; i < t->now.n; i++) {
		struct tree_object *o = &t->now.objects[i];

		o->slot = TREE_NOWHERE;
		if (!o->names || o->other == TREE_NOWHERE)
			continue;
		t->prev.objects[o->other].other = i;
		o->slot = o->other;
	}
}

static uint32_t places_used(const struct tree *tree)
{
	uint32_t used = 0;

	for (uint32_t i = 0; i < tree->n; i++)
		if (tree->objects[i].slot != TREE_NOWHERE && tree->objects[i].slot >= used)
			used = tree->objects[i].slot + 1;
	return used;
}

int tree_assign(struct saved_tree *t, uint32_t *ret_slots, struct err *err)
{
	uint32_t next_free = 1, slots = t->prev.n ? t->prev.n : 1;

	settle(t);
	/* First what vanished: its stretch may be the very one of something that is gone. */
	if (clear_vanished(t, err) < 0 || clear_gone(t, err) < 0)
		return -1;
	if (t->now.n && t->now.objects[0].names)
		t->now.objects[0].slot = 0;
	for (uint32_t i = 0; i < t->now.n; i++) {
		struct tree_object *o = &t->now.objects[i];

		if (!o->names || o->slot != TREE_NOWHERE)
			continue;
		while (next_free < t->prev.n && t->prev.objects[next_free].other != TREE_NOWHERE)
			next_free++;
		o->slot = next_free < t->prev.n ? next_free++ : slots++;
	}
	*ret_slots = places_used(&t->now);
	return 0;
}

bool tree_make_prev(struct saved_tree *t)
{
	struct tree next = {.next_page = t->now.next_page};
	struct err ignored;
	uint32_t slots = 0;

	for (uint32_t i = 0; i < t->now.n; i++)
		if (t->now.objects[i].slot != TREE_NOWHERE && t->now.objects[i].slot >= slots)
			slots = t->now.objects[i].slot + 1;
	next.objects = calloc((size_t)slots + 1, sizeof(*next.objects));
	if (!next.objects)
		return false;
	next.n = next.room = slots;
	for (uint32_t i = 0; i < t->now.n; i++) {
		struct tree_object *o = &t->now.objects[i];

		for (uint32_t j = 0; j < o->n_entries; j++)
			o->entries[j].object = t->now.objects[o->entries[j].object].slot;
	}
	for (uint32_t i = 0; i < t->now.n; i++) {
		struct tree_object *o = &t->now.objects[i];

		if (o->slot == TREE_NOWHERE)
			continue;
		next.objects[o->slot] = *o;
		o->entries = NULL;
		o->n_entries = 0;
		o->xattrs = NULL;
		o->target = NULL;
	}
	tree_clear(&t->prev);
	t->prev = next;
	return tree_link_up(&t->prev, &ignored) == 0;
}
