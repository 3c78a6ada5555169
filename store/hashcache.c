#include "store/source.h"

#include <stdlib.h>
#include <string.h>

#include "store/base/search.h"

#define PAGES_UNTOLD (4u << 20)   /* 20 bytes each: what 16 GiB of memory take */
#define PAGES_LEAST  (64u << 10)

static void free_pack(struct hash_pack *pack)
{
	free(pack->delta);
	free(pack->hash);
}

void hash_cache_clear(struct hash_cache *cache)
{
	size_t i;

	for (i = 0; i < cache->n; i++)
		free_pack(&cache->packs[i]);
	free(cache->packs);
	*cache = (struct hash_cache){0};
}

/* How many packs start at or below id. */
static size_t count_upto(const struct hash_cache *cache, uint64_t id)
{
	return COUNT_BEFORE(cache->n, i, cache->packs[i].first <= id);
}

static bool find_in(const struct hash_pack *pack, uint64_t id, struct page_hash *ret)
{
	uint64_t delta = id - pack->first;
	size_t at;

	if (id < pack->first || delta > pack->span)
		return false;
	if (delta < pack->count && pack->delta[delta] == delta) { /* no gaps before it */
		*ret = pack->hash[delta];
		return true;
	}
	at = COUNT_BEFORE(pack->count, i, pack->delta[i] < delta);
	if (at < pack->count && pack->delta[at] == delta) {
		*ret = pack->hash[at];
		return true;
	}
	return false;
}

bool hash_cache_find(struct hash_cache *cache, uint64_t id, struct page_hash *ret)
{
	size_t at;

	if (cache->last < cache->n && find_in(&cache->packs[cache->last], id, ret))
		return true;
	at = count_upto(cache, id);
	if (at == 0 || !find_in(&cache->packs[at - 1], id, ret))
		return false;
	cache->last = at - 1;
	cache->packs[at - 1].used_at = ++cache->clock;
	return true;
}

static int copy_pack(struct hash_pack *pack, const struct pack_view *view)
{
	uint32_t i;

	*pack = (struct hash_pack){.first = view->first, .span = view->span, .count = view->count};
	pack->delta = malloc(view->count * sizeof(*pack->delta));
	pack->hash = malloc(view->count * sizeof(*pack->hash));
	if (!pack->delta || !pack->hash) {
		free_pack(pack);
		return -1;
	}
	for (i = 0; i < view->count; i++) {
		struct pack_entry e = pack_entry(view, i);

		pack->delta[i] = (uint32_t)(e.id - view->first);
		pack->hash[i] = e.hash;
	}
	return 0;
}

static void drop(struct hash_cache *cache, size_t from, size_t end)
{
	for (size_t i = from; i < end; i++) {
		cache->pages -= cache->packs[i].count;
		free_pack(&cache->packs[i]);
	}
	memmove(cache->packs + from, cache->packs + end, (cache->n - end) * sizeof(*cache->packs));
	cache->n -= end - from;
}

/* What was last used in the first eighth of the time since the oldest was. */
static void drop_oldest(struct hash_cache *cache)
{
	uint64_t oldest = cache->clock;
	size_t kept = 0;

	for (size_t i = 0; i < cache->n; i++)
		if (cache->packs[i].used_at < oldest)
			oldest = cache->packs[i].used_at;
	for (size_t i = 0; i < cache->n; i++) {
		struct hash_pack *pack = &cache->packs[i];

		if (pack->used_at - oldest > (cache->clock - oldest) / 8) {
			cache->packs[kept++] = *pack;
		} else {
			cache->pages -= pack->count;
			free_pack(pack);
		}
	}
	cache->n = kept;
}

/* By an eighth at once: each look at all of them takes its time. */
static void make_room(struct hash_cache *cache)
{
	size_t most = cache->most_pages ? cache->most_pages : PAGES_UNTOLD;

	if (cache->pages <= most)
		return;
	while (cache->pages > most - most / 8)
		drop_oldest(cache);
}

void hash_cache_expect(struct hash_cache *cache, uint64_t pages)
{
	uint64_t most = pages + pages / 2; /* those of pages that were written since are still there */

	cache->most_pages = most > PAGES_LEAST ? most : PAGES_LEAST;
}

static int grow(struct hash_cache *cache)
{
	size_t room = cache->room ? cache->room * 2 : 64;
	struct hash_pack *more = reallocarray(cache->packs, room, sizeof(*more));

	if (!more)
		return -1;
	cache->packs = more;
	cache->room = room;
	return 0;
}

void hash_cache_add(struct hash_cache *cache, const struct pack_view *view)
{
	struct hash_pack pack;
	size_t at;

	if (cache->n == cache->room && grow(cache) < 0)
		return;
	if (copy_pack(&pack, view) < 0)
		return;
	/* Ranges of packs do not overlap, so what lies in this one's is of before it was compacted. */
	at = COUNT_BEFORE(cache->n, i, cache->packs[i].first < view->first);
	drop(cache, at, count_upto(cache, view->first + view->span));
	memmove(cache->packs + at + 1, cache->packs + at, (cache->n - at) * sizeof(*cache->packs));
	pack.used_at = ++cache->clock;
	cache->packs[at] = pack;
	cache->n++;
	cache->pages += pack.count;
	cache->last = at;
	make_room(cache);
}

static void retain_in(struct hash_pack *pack, bool (*keep)(const void *ctx, uint64_t id), const void *ctx)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < pack->count; i++) {
		if (!keep(ctx, pack->first + pack->delta[i]))
			continue;
		pack->delta[kept] = pack->delta[i];
		pack->hash[kept++] = pack->hash[i];
	}
	if (kept && kept < pack->count) { /* smaller: they stay where they are if that fails */
		uint32_t *delta = reallocarray(pack->delta, kept, sizeof(*delta));
		struct page_hash *hash = reallocarray(pack->hash, kept, sizeof(*hash));

		pack->delta = delta ? delta : pack->delta;
		pack->hash = hash ? hash : pack->hash;
	}
	pack->count = kept;
}

void hash_cache_retain(struct hash_cache *cache, bool (*keep)(const void *ctx, uint64_t id), const void *ctx)
{
	size_t n = 0;

	cache->pages = 0;
	for (size_t i = 0; i < cache->n; i++) {
		struct hash_pack pack = cache->packs[i];

		retain_in(&pack, keep, ctx);
		cache->pages += pack.count;
		if (pack.count)
			cache->packs[n++] = pack;
		else
			free_pack(&pack);
	}
	cache->n = n;
	cache->last = 0;
}

/* ---- from one session to the next ---------------------------------------------------------- */

struct hash_cache *hash_cache_take(struct store *store)
{
	struct hash_cache *cache;

	pthread_mutex_lock(&store->hashes_mutex);
	cache = store->kept_hashes;
	store->kept_hashes = NULL;
	pthread_mutex_unlock(&store->hashes_mutex);
	return cache ? cache : calloc(1, sizeof(*cache));
}

static void free_cache(struct hash_cache *cache)
{
	if (cache)
		hash_cache_clear(cache);
	free(cache);
}

void hash_cache_keep(struct store *store, struct hash_cache *cache)
{
	struct hash_cache *other;

	pthread_mutex_lock(&store->hashes_mutex);
	other = store->kept_hashes;
	if (!other || (cache && cache->n > other->n)) {
		store->kept_hashes = cache;
		cache = other;
	}
	pthread_mutex_unlock(&store->hashes_mutex);
	free_cache(cache);
}

void hash_cache_forget(struct store *store)
{
	free_cache(store->kept_hashes);
	store->kept_hashes = NULL;
}
