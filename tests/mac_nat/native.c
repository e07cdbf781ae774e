/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * MAC-NAT's programs as a plain program. It does what it is told by lines, and
 * answers each by a line:
 *
 *   settings HEX            struct settings
 *   put MAP KEY VALUE       an entry, in hex
 *   run PROGRAM INGRESS MARK FRAME
 *       VERDICT MARK FRAME [redirect INDEX:FLAGS] [clone INDEX:FLAGS:MARK:FRAME]...
 *   remove MAP KEY          an entry
 *   left END                the checksum, which ends there, is left to the
 *                           hardware, from now on; 0: it is not
 *   list MAP                KEY=VALUE ...
 *   clear                   forgets all entries
 */
#include <stdio.h>
#include <stdlib.h>

#include "mac_nat.bpf.c"

struct native_entry {
	struct native_entry *next;
	unsigned char *key, *value;
};

static const __u64 tick = 1000000;
static __u32 target;
static __u64 target_flags;
static __u32 left;
static char *clones;
static size_t clones_size;
static FILE *cloned;

static void die(const char *what)
{
	fprintf(stderr, "native: %s\n", what);
	exit(2);
}

static void print_hex(FILE *to, const unsigned char *bytes, size_t length)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < length; i++) {
		putc(digits[bytes[i] >> 4], to);
		putc(digits[bytes[i] & 15], to);
	}
}

static struct native_entry *find(struct native_map *map, const void *key)
{
	for (struct native_entry *e = map->first; e; e = e->next)
		if (!memcmp(e->key, key, map->key_size))
			return e;
	return 0;
}

/* Of whole bytes. */
static struct native_entry *longest(struct native_map *map, const void *key)
{
	struct native_entry *found = 0;
	__u32 most = 0;

	for (struct native_entry *e = map->first; e; e = e->next) {
		__u32 length = get32(e->key);

		if (length >= most && !memcmp(e->key + 4, (const char *)key + 4, length / 8)) {
			found = e;
			most = length;
		}
	}
	return found;
}

static void *copy(const void *from, size_t length)
{
	void *to = malloc(length);

	return to ? memcpy(to, from, length) : (die("no memory"), to);
}

void *bpf_map_lookup_elem(void *of, const void *key)
{
	struct native_map *map = of;
	struct native_entry *entry = map->kind == BPF_MAP_TYPE_LPM_TRIE ? longest(map, key) : find(map, key);

	if (!entry && map->kind == BPF_MAP_TYPE_PERCPU_ARRAY) {
		void *zero = calloc(1, map->value_size);

		bpf_map_update_elem(map, key, zero, BPF_ANY);
		free(zero);
		entry = find(map, key);
	}
	return entry ? entry->value : 0;
}

long bpf_map_update_elem(void *of, const void *key, const void *value, __u64 flags)
{
	struct native_map *map = of;
	struct native_entry *entry = find(map, key);

	if (entry && flags == BPF_NOEXIST)
		return -17;
	if (!entry) {
		entry = calloc(1, sizeof(*entry));
		entry->key = copy(key, map->key_size);
		entry->next = map->first;
		map->first = entry;
		entry->value = copy(value, map->value_size);
	}
	memcpy(entry->value, value, map->value_size);
	return 0;
}

long bpf_map_delete_elem(void *of, const void *key)
{
	struct native_map *map = of;

	for (struct native_entry **at = &map->first; *at; at = &(*at)->next)
		if (!memcmp((*at)->key, key, map->key_size)) {
			struct native_entry *entry = *at;

			*at = entry->next;
			free(entry->key);
			free(entry->value);
			free(entry);
			return 0;
		}
	return -2;
}

long bpf_skb_load_bytes(const struct __sk_buff *skb, __u32 offset, void *to, __u32 len)
{
	if ((__u64)offset + len > skb->len) {
		memset(to, 0, len);
		return -14;
	}
	memcpy(to, start_of(skb) + offset, len);
	return 0;
}

long bpf_skb_store_bytes(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len, __u64 flags)
{
	if (flags)
		return -22;
	if ((__u64)offset + len > skb->len)
		return -14;
	memcpy(start_of(skb) + offset, from, len);
	return 0;
}

static __u32 add(__u32 a, __u32 b)
{
	__u64 sum = (__u64)a + b;

	return (__u32)sum + (__u32)(sum >> 32);
}

__s64 bpf_csum_diff(const void *from, __u32 from_size, const void *to, __u32 to_size, __u32 seed)
{
	const unsigned char *a = from, *b = to;

	if (from_size % 4 || to_size % 4)
		return -22;
	for (__u32 i = 0; i < from_size; i += 4)
		seed = add(seed, ~get32(a + i));
	for (__u32 i = 0; i < to_size; i += 4)
		seed = add(seed, get32(b + i));
	return seed;
}

long bpf_l4_csum_replace(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to, __u64 flags)
{
	__u16 old;
	__u32 sum;

	if (from || (flags & ~(__u64)BPF_F_MARK_MANGLED_0))
		die("a checksum is replaced in a way that this does not know");
	if (bpf_skb_load_bytes(skb, offset, &old, sizeof(old)))
		return -14;
	if (left)
		return 0;
	if ((flags & BPF_F_MARK_MANGLED_0) && !old)
		return 0;
	sum = add((__u32)to, ~(__u32)old);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~sum & 0xffff;
	if ((flags & BPF_F_MARK_MANGLED_0) && !sum)
		sum = 0xffff;
	put16(start_of(skb) + offset, (__u16)sum);
	return 0;
}

long bpf_clone_redirect(struct __sk_buff *skb, __u32 ifindex, __u64 flags)
{
	fprintf(cloned, " clone %u:%llu:%u:", ifindex, flags, skb->mark);
	print_hex(cloned, start_of(skb), skb->len);
	return 0;
}

long bpf_redirect(__u32 ifindex, __u64 flags)
{
	target = ifindex;
	target_flags = flags;
	return 7; /* TC_ACT_REDIRECT */
}

/* A frame lies in one piece up to here, and no further than asked for. */
long bpf_skb_pull_data(struct __sk_buff *skb, __u32 len)
{
	if (len > skb->len)
		return -12;
	if (skb->data + len > skb->data_end)
		skb->data_end = skb->data + len;
	return 0;
}

__u64 bpf_jiffies64(void) { return tick; }
__u64 bpf_ktime_get_boot_ns(void) { return tick * 4000000; }

static struct native_map *map_named(const char *name)
{
	struct native_map *all[] = { &guests, &protected, &pins, &prefixes, &ports, &xids, &counters };

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (!strcmp(all[i]->name, name))
			return all[i];
	die("no such map");
	return 0;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c < 'a' || c > 'f')
		die("no hex");
	return c - 'a' + 10;
}

/* Exactly as long as it is said to be: one byte more is found out. */
static unsigned char *read_hex(const char *text, size_t *length)
{
	unsigned char *bytes;

	*length = strlen(text) / 2;
	bytes = malloc(*length ? *length : 1);
	for (size_t i = 0; i < *length; i++)
		bytes[i] = (unsigned char)(digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
	return bytes;
}

static void run(const char *program, __u32 ingress, __u32 mark, const char *text)
{
	struct __sk_buff skb = { .mark = mark, .ingress_ifindex = ingress };
	size_t length;
	unsigned char *frame = read_hex(text, &length);
	int verdict;

	skb.len = (__u32)length;
	skb.data = (unsigned long)frame;
	/* No more than the Ethernet header lies in one piece at first. */
	skb.data_end = skb.data + (length < ETH_HLEN ? length : ETH_HLEN);
	cloned = open_memstream(&clones, &clones_size);
	target = 0;
	if (!strcmp(program, "vmbr_air_out"))
		verdict = vmbr_air_out(&skb);
	else if (!strcmp(program, "vmbr_uplink_in"))
		verdict = vmbr_uplink_in(&skb);
	else
		verdict = vmbr_uplink_out(&skb);
	fclose(cloned);
	printf("%d %u ", verdict, skb.mark);
	print_hex(stdout, frame, length);
	if (verdict == 7)
		printf(" redirect %u:%llu", target, target_flags);
	printf("%s\n", clones);
	free(clones);
	free(frame);
}

static const char *word(void)
{
	const char *next = strtok(0, " \n");

	return next ? next : "";
}

static unsigned long number(void) { return strtoul(word(), 0, 10); }

static void put(struct native_map *map)
{
	size_t key_length, value_length;
	unsigned char *key = read_hex(word(), &key_length), *value = read_hex(word(), &value_length);

	if (key_length != map->key_size || value_length != map->value_size)
		die("an entry of another size");
	bpf_map_update_elem(map, key, value, BPF_ANY);
	free(key);
	free(value);
}

static void list(const struct native_map *map)
{
	for (struct native_entry *e = map->first; e; e = e->next) {
		print_hex(stdout, e->key, map->key_size);
		putchar('=');
		print_hex(stdout, e->value, map->value_size);
		putchar(' ');
	}
	putchar('\n');
}

int main(void)
{
	static char line[1 << 20];

	while (fgets(line, sizeof(line), stdin)) {
		const char *verb = strtok(line, " \n");

		if (!strcmp(verb, "run")) {
			const char *program = word();
			__u32 ingress = (__u32)number(), mark = (__u32)number();

			run(program, ingress, mark, word());
		} else if (!strcmp(verb, "list")) {
			list(map_named(word()));
		} else {
			if (!strcmp(verb, "settings")) {
				size_t length;
				unsigned char *bytes = read_hex(word(), &length);

				if (length != sizeof(settings))
					die("settings of another size");
				memcpy((void *)&settings, bytes, length);
				free(bytes);
			} else if (!strcmp(verb, "remove")) {
				struct native_map *map = map_named(word());
				size_t length;
				unsigned char *key = read_hex(word(), &length);

				bpf_map_delete_elem(map, key);
				free(key);
			} else if (!strcmp(verb, "left")) {
				left = (__u32)number();
			} else if (!strcmp(verb, "put")) {
				put(map_named(word()));
			} else if (!strcmp(verb, "clear")) {
				const char *all[] = { "guests", "protected", "pins", "prefixes", "ports", "xids", "counters" };

				for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
					for (struct native_map *of = map_named(all[i]); of->first;)
						bpf_map_delete_elem(of, of->first->key);
				for (size_t i = 0; i < GATEWAYS; i++)
					gateways[i] = probers[i] = 0;
			} else {
				die(verb);
			}
			puts("ok");
		}
		fflush(stdout);
	}
	return 0;
}
