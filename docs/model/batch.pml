/*
 * The life of one batch: two attempts that may run at the same time, another
 * session on the table, crashes, lost replies, and optionally a failover.
 * README.md says what is left out and why that is sound.
 *
 * Rows. The model counts row versions, 0 to 3: versions 0 and 1 are there from the
 * start under keys a and b; each write of the other session makes the next one. A
 * set of versions is a mask of four bits, so that the table, an object's content
 * and a digest are one small number each.
 *
 * Objects are named by their content, as the real keys are: the name is the
 * set. A set of objects is a mask of sixteen bits, one for each content.
 *
 * Configuration (spin -DNAME or -DNAME=n)
 *   FAULTS=n    crashes, broken connections and lost replies in all
 *   OPS=n       transactions of the other session
 *   TWINS=n     attempts that start while another runs; any number without it
 *   LOOSE       only: no row is lost. For a failover and REUSE, which bring rows back
 *   LOOSE_END   not: what we deleted is in the committed object, at the end
 *   DAMAGE      an object may be damaged before an attempt has read it back
 *   CANCEL      the configuration may stop to cover the batch
 *   FAILOVER=n  the source fails over to an asynchronous standby, which loses commits
 *   STANDBY_READS  with FAILOVER: attempts may also read from that standby
 *   REUSE       the other session may insert a key again that was deleted
 * Broken on purpose, each one a guard less: NO_VERIFY, NO_READBACK, NO_DIGEST,
 *   NO_CAS, NO_ATTEMPT, NO_STATE, NO_LOCK, NO_RESOLVE, NO_RESOLVE_FENCE, STALE_RESOLVE,
 *   NO_TIMELINE, OVERWRITE, MANIFEST_FIRST, LEDGER_LOSES_COMMIT
 */

#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef OPS
#define OPS 2
#endif
#define WRITES 2 /* versions 2 and 3 */

mtype = { planned, verified, deleting, archived, emptied, cancelled };

/* ---- The source ---------------------------------------------------------- */

unsigned table : 4 = 3;   /* the committed versions in the batch's range */
unsigned byUs : 4;        /* ghost: versions that a committed delete of ours removed */
unsigned mutLock : 4;     /* the version that the other session holds a row lock on */
unsigned writes : 2;      /* versions written by the other session, ever */
unsigned key2 : 4;        /* keys of versions 2 and 3, as masks: a=1 b=2 c=4 d=8 */
unsigned key3 : 4;
unsigned lock : 2;        /* the batch's advisory lock: 0 free, 1 + worker */

/* The transaction of a worker, as the server sees it. */
#define NONE      0
#define OPEN      1 /* begun */
#define ROWS      2 /* the rows are locked and deleted, uncommitted */
#define SENT      3 /* and the server has got COMMIT */
#define COMMITTED 4 /* done; the reply is on its way */
#define DEAD      5 /* rolled back by the server; the client does not know yet */
byte tx[2];
byte snap[2];             /* the versions that the transaction's snapshot shows */
bit orphan[2];            /* the client of this transaction is gone */

#ifdef FAILOVER
unsigned timeline : 2;
unsigned written : 2;     /* versions written on this history: it is rewound, and so are ctid and xmin */
unsigned ident3 : 4;      /* identity of version 3: that of version 2 again, if a failover lost that */
unsigned failovers : 2;
unsigned standbyTable : 4 = 3;
unsigned standbyByUs : 4;
unsigned standbyWritten : 2;
#define TIMELINE timeline
#define DIGEST(s) (((s) & 7) | (((s) & 8) -> ident3 : 0))
#else
#define TIMELINE 0
#define DIGEST(s) (s)
#endif

#if defined(FAILOVER) && !defined(NO_TIMELINE)
#define SAME_TIMELINE(t) ((t) == timeline)
#else
#define SAME_TIMELINE(t) 1
#endif

/* What resolve looks at: read committed, each statement sees the table as it is. */
#ifdef STALE_RESOLVE
#define LOOK_NOW snap[me] = table /* repeatable read: the snapshot is older than the lock */
#define SEEN snap[me]
#else
#define LOOK_NOW skip
#define SEEN table
#endif
#define ALL_THERE (DIGEST(SEEN) == dig && SAME_TIMELINE(tl))

#define KEYS(s) (((s) & 3) | (((s) & 4) -> key2 : 0) | (((s) & 8) -> key3 : 0))
#define COUNT(s) (((s) & 1) + (((s) >> 1) & 1) + (((s) >> 2) & 1) + (((s) >> 3) & 1))

/* ---- The ledger ---------------------------------------------------------- */

mtype state = planned;
bit current;              /* whose attempt claimed last: attempt numbers are only compared with the last */
byte object;              /* the batch's object (0: none), with the digest and timeline of its rows */
byte objectDigest;
byte objectTimeline;
unsigned superseded : 16; /* objects that were set aside and may hold an only copy */

#define FINAL (state == archived || state == emptied || state == cancelled)

#if defined(NO_CAS)
#define MINE 1
#define IN(s) 1
#elif defined(NO_ATTEMPT)
#define MINE 1
#define IN(s) (s)
#elif defined(NO_STATE)
#define MINE (current == me)
#define IN(s) 1
#else
#define MINE (current == me)
#define IN(s) (s)
#endif
#define CAS(s) (MINE && IN(s)) /* the guard of a compare-and-set */

/* ---- Storage ------------------------------------------------------------- */

unsigned whole : 16;      /* objects in storage that read back as they should */
unsigned manifests : 16;

#define NAME(o) (1 << (o))
#define WHOLE(o) ((whole >> (o)) & 1)
#ifdef OVERWRITE
#define PUT(o) whole = NAME(o)           /* one key for the batch, whatever the content */
#else
#define PUT(o) whole = whole | NAME(o)
#endif
/* The names of all objects that hold a given version. */
#define HOLD0 43690 /* 0xAAAA */
#define HOLD1 52428 /* 0xCCCC */
#define HOLD2 61680 /* 0xF0F0 */
#define HOLD3 65280 /* 0xFF00 */
#define COVERED(objects) ((((objects) & HOLD0) -> 1 : 0) | (((objects) & HOLD1) -> 2 : 0) | (((objects) & HOLD2) -> 4 : 0) | (((objects) & HOLD3) -> 8 : 0))

/* ---- The environment's budget -------------------------------------------- */

unsigned faults : 3 = FAULTS;
#ifdef TWINS
unsigned twins : 3 = TWINS;
bit live[2];
#define LIVE(x) live[me] = x
#define MAY_START (!live[1 - me] || twins > 0)
#define START twins = (live[1 - me] -> twins - 1 : twins); live[me] = 1
#else
#define LIVE(x) skip
#define MAY_START true
#define START skip
#endif
bit readBack[2];          /* this attempt has read its object back whole */
#ifdef CANCEL
bit uncovered;
#endif

/* ---- What must hold ------------------------------------------------------ */

/* These stay 0; they only give the assertions a name. */
bit row_lost, uncommitted_rows_at_the_end, manifest_while_rows_are_there, two_committed_objects, wrong_end;

/* At every instant: what we deleted is in a whole object that the ledger does not
 * call waste. A version that nobody removed is in the table by the model's making,
 * so this is the first half of DESIGN section 1. */
inline check() {
	d_step {
		row_lost = ((byUs & ~COVERED((superseded | (object -> NAME(object) : 0)) & whole)) != 0);
		assert(!row_lost);
#ifndef LOOSE
		/* A manifest means committed: its rows are not in the table. */
		manifest_while_rows_are_there = ((table & COVERED(manifests)) != 0);
		assert(!manifest_while_rows_are_there);
		two_committed_objects = ((manifests & (manifests - 1)) != 0);
		assert(!two_committed_objects);
#endif
		check_end()
	}
}

/* In a final state: what we deleted is in the committed object. */
inline check_end() {
	if
	:: state == archived ->
		wrong_end = (object == 0 || !WHOLE(object) || (manifests & NAME(object)) == 0);
		assert(!wrong_end);
#ifndef LOOSE_END
		uncommitted_rows_at_the_end = ((byUs & ~object) != 0);
		assert(!uncommitted_rows_at_the_end)
#endif
	:: (state == emptied || state == cancelled) ->
#ifndef LOOSE
		wrong_end = (manifests != 0);
		assert(!wrong_end);
#endif
#ifndef LOOSE_END
		uncommitted_rows_at_the_end = (byUs != 0);
		assert(!uncommitted_rows_at_the_end)
#else
		skip
#endif
	:: else
	fi
}

/* ---- The server ---------------------------------------------------------- */

/* Ends the transaction of worker w; its locks go with it. */
inline end_tx(w, how) {
	tx[w] = how;
	snap[w] = 0;
	if
	:: lock == w + 1 -> lock = 0
	:: else
	fi;
	if
	:: how == NONE -> orphan[w] = 0
	:: else
	fi
}

inline commit_tx(w) {
	byUs = byUs | (snap[w] & table);
	table = table & ~snap[w];
	end_tx(w, COMMITTED);
	check()
}

/* The server's own steps: it carries out a COMMIT that it got, whether or not
 * anybody waits for the answer, and rolls back what a lost client left open. */
active proctype server() {
end:
	do
	:: atomic { tx[0] == SENT -> commit_tx(0) }
	:: atomic { tx[1] == SENT -> commit_tx(1) }
	:: atomic { orphan[0] && tx[0] != SENT -> end_tx(0, NONE) }
	:: atomic { orphan[1] && tx[1] != SENT -> end_tx(1, NONE) }
	/* A crash of the server, a time-out, a kill by hand. */
	:: atomic { faults > 0 && tx[0] >= OPEN && tx[0] <= SENT -> faults--; end_tx(0, DEAD) }
	:: atomic { faults > 0 && tx[1] >= OPEN && tx[1] <= SENT -> faults--; end_tx(1, DEAD) }
	od
}

#define LOCKED_BY_US(v) ((tx[0] == ROWS || tx[0] == SENT) && (snap[0] & (v)) || (tx[1] == ROWS || tx[1] == SENT) && (snap[1] & (v)))

/* Writes the next version, under key k of the mutator. */
inline write() {
	if
	:: writes == 0 ->
		key2 = k;
		table = table | 4
	:: else ->
#ifdef FAILOVER
		ident3 = (written == 0 -> 4 : 8);
#endif
		key3 = k;
		table = table | 8
	fi;
#ifdef FAILOVER
	written++;
#endif
	writes++;
	k = 0
}

/* A row may be locked: it is there, and we hold no lock on it. */
#define FREE(v) ((table & (v)) && !LOCKED_BY_US(v))

/* The other session: an update or a delete locks its row first and commits later. */
active proctype mutator() {
	byte ops = OPS;
	byte k;
end:
	do
	:: atomic { ops > 0 && !mutLock && FREE(1) -> mutLock = 1; ops-- }
	:: atomic { ops > 0 && !mutLock && FREE(2) -> mutLock = 2; ops-- }
	:: atomic { ops > 0 && !mutLock && FREE(4) -> mutLock = 4; ops-- }
	:: atomic { ops > 0 && !mutLock && FREE(8) -> mutLock = 8; ops-- }
	:: atomic { mutLock && writes < WRITES -> /* update */
		k = KEYS(mutLock);
		table = table & ~mutLock;
		mutLock = 0;
		write();
		check()
	   }
	:: atomic { mutLock -> /* delete */
		table = table & ~mutLock;
		mutLock = 0;
		check()
	   }
	:: atomic { mutLock -> mutLock = 0 } /* roll back */
	:: atomic { ops > 0 && writes < WRITES -> /* insert into the range, under a new key */
		ops--;
		if
		:: k = (writes == 0 -> 4 : 8)
#ifdef REUSE
		:: (KEYS(table) & 1) == 0 -> k = 1
		:: (KEYS(table) & 2) == 0 -> k = 2
#endif
		fi;
		write();
		check()
	   }
	od
}

/* ---- An attempt ---------------------------------------------------------- */

/* The attempt is over: River may start another one. */
inline stop() {
	LIVE(0);
	readBack[me] = 0;
	obj = 0; dig = 0; tl = 0; begun = 0; mismatch = 0
}

/* Any step may be the attempt's last one: the process is killed, or the reply to
 * the step before was lost and the attempt ends with an error. What it had open on
 * the server stays open there until the server notices. */
inline die() {
	faults--;
	orphan[me] = (tx[me] != NONE);
	stop()
}
#define DIES :: atomic { faults > 0 -> die(); goto idle }

proctype worker(bit me) {
	byte obj, dig, tl; /* the object that this attempt knows of; the spool before it is stored */
	bit begun;         /* this attempt has moved the batch to deleting */
	bit mismatch;

end:
idle:
	if
	:: atomic { FINAL -> goto done }
	/* Ledger.Claim: the attempt number goes up, all older attempts are stale. */
	:: atomic { !FINAL && MAY_START ->
		START;
		current = me;
		obj = object;
		dig = objectDigest;
		tl = objectTimeline;
		if
		:: state == deleting -> goto resolve
		:: else
		fi
	   }
	fi;

covered: /* Worker.covered: does today's configuration still want this? */
#ifdef CANCEL
	if
	:: atomic { !uncovered -> skip }
	:: atomic { uncovered ->
		if
		:: CAS(state == planned || state == verified) -> state = cancelled; object = 0; check()
		:: else
		fi;
		stop(); goto idle
	   }
	DIES
	fi;
#endif
	atomic {
		if
		:: obj == 0 -> goto extract
		:: obj != 0 && !readBack[me] -> goto readback
		:: obj != 0 && readBack[me] -> goto guarded_delete
		fi
	};

extract: /* Worker.extract: one snapshot into the spool */
	if
	:: atomic { true ->
		obj = table;
		if
		:: obj == 0 -> goto none_left
		:: else -> dig = DIGEST(obj); tl = TIMELINE
		fi
	   }
#ifdef STANDBY_READS
	:: atomic { standbyTable != 0 && !mismatch -> obj = standbyTable; dig = DIGEST(obj); tl = TIMELINE }
#endif
	DIES
	fi;

	if /* Worker.upload */
	:: atomic { true -> PUT(obj); check() }
	DIES
	fi;

	if /* Worker.verify: read it back ... */
#ifdef NO_VERIFY
	:: atomic { true -> skip }
#else
	:: atomic { WHOLE(obj) -> readBack[me] = 1 }
	:: atomic { !WHOLE(obj) -> stop(); goto idle }
#endif
	DIES
	fi;
	if /* ... and record it */
	:: atomic { CAS(state == planned) ->
		state = verified; object = obj; objectDigest = dig; objectTimeline = tl; check(); goto guarded_delete }
	:: atomic { !CAS(state == planned) -> stop(); goto idle }
	DIES
	fi;

none_left: /* Worker.recordEmpty */
	if
	:: atomic { true ->
		if
		:: CAS(state == planned) -> state = emptied; object = 0; check()
		:: else
		fi;
		stop(); goto idle
	   }
	DIES
	fi;

readback: /* Worker.readBack: somebody else verified it, maybe hours ago */
	if
#if defined(NO_READBACK) || defined(NO_VERIFY)
	:: atomic { true -> skip }
#else
	:: atomic { WHOLE(obj) -> readBack[me] = 1 }
	:: atomic { !WHOLE(obj) -> goto again }
#endif
	DIES
	fi;

guarded_delete: /* source.DB.Delete */
#ifdef MANIFEST_FIRST
	if
	:: atomic { true -> manifests = manifests | NAME(obj); check() }
	DIES
	fi;
#endif
	atomic { tx[me] == NONE -> tx[me] = OPEN; snap[me] = table };
	if /* pg_try_advisory_xact_lock; the snapshot is older than the lock */
	:: atomic { tx[me] == DEAD -> end_tx(me, NONE); goto not_deleted }
#ifdef NO_LOCK
	:: atomic { tx[me] != DEAD -> skip }
#else
	:: atomic { tx[me] != DEAD && lock == 0 -> lock = me + 1 }
	:: atomic { tx[me] != DEAD && lock != 0 -> end_tx(me, NONE); stop(); goto twin_at_work }
#endif
	DIES
	fi;
	if /* Ledger.StartDelete, the fence */
	:: atomic { CAS(state == verified) -> state = deleting; begun = 1; check() }
	:: atomic { !CAS(state == verified) -> end_tx(me, NONE); stop(); goto idle }
	DIES
	fi;
	if /* the timeline; then DELETE, which locks the rows */
	:: atomic { tx[me] == DEAD -> end_tx(me, NONE); goto not_deleted }
	:: atomic { tx[me] != DEAD && !SAME_TIMELINE(tl) -> end_tx(me, NONE); goto again }
	:: atomic { tx[me] != DEAD && SAME_TIMELINE(tl) ->
		if
		:: (snap[me] & ~table) -> /* 40001: a row of the snapshot was changed since */
			end_tx(me, NONE); mismatch = 1; goto again
		:: else ->
			if /* lock_timeout of the DELETE; whyLocked looks at the rows */
			:: (snap[me] & mutLock) && DIGEST(snap[me]) == dig -> end_tx(me, NONE); goto rows_locked
			:: (snap[me] & mutLock) && DIGEST(snap[me]) != dig -> end_tx(me, NONE); mismatch = 1; goto again
			:: else -> tx[me] = ROWS
			fi
		fi
	   }
	:: atomic { faults > 0 && tx[me] != DEAD -> faults--; orphan[me] = 1; goto not_deleted } /* the connection breaks */
	DIES
	fi;
	if /* RETURNING: the digest of what is gone, then COMMIT or ROLLBACK */
	:: atomic { tx[me] == DEAD -> end_tx(me, NONE); goto not_deleted }
#ifdef NO_DIGEST
	:: atomic { tx[me] == ROWS -> tx[me] = SENT }
#else
	:: atomic { tx[me] == ROWS && DIGEST(snap[me]) == dig -> tx[me] = SENT }
	:: atomic { tx[me] == ROWS && DIGEST(snap[me]) != dig -> end_tx(me, NONE); mismatch = 1; goto again }
#endif
	:: atomic { faults > 0 && tx[me] != DEAD -> faults--; orphan[me] = 1; goto not_deleted }
	DIES
	fi;
	if /* the answer to COMMIT */
	:: atomic { tx[me] == COMMITTED -> tx[me] = NONE; goto record }
	:: atomic { tx[me] == DEAD -> tx[me] = NONE; stop(); goto idle } /* CommitUnknownError */
	DIES
	fi;

not_deleted: /* Worker.notDeleted: COMMIT was never sent, so the server rolls back, now or later */
	if
	:: atomic { true ->
		if
		:: begun && CAS(state == deleting) -> state = verified; check()
		:: else
		fi;
		stop(); goto idle
	   }
	DIES
	fi;

rows_locked: /* the same, and the next try waits for the other session */
	if
	:: atomic { true ->
		if
		:: CAS(state == deleting) -> state = verified; check()
		:: else
		fi;
		stop()
	   }
	DIES
	fi;
	atomic { mutLock == 0 -> goto idle };

twin_at_work: /* TwinAtWork, TwinDeciding: snooze */
	atomic { lock == 0 || FINAL -> goto idle };

again: /* Ledger.ExtractAgain(discarded): nothing was deleted, the object is waste */
	if
	:: atomic { CAS(state == verified || state == deleting) ->
		state = planned; object = 0; obj = 0; readBack[me] = 0; begun = 0; check(); goto extract }
	:: atomic { !CAS(state == verified || state == deleting) -> stop(); goto idle }
	DIES
	fi;

resolve: /* Worker.resolve: the object is read back first; then source.DB.Resolve */
#ifdef NO_RESOLVE
	goto record;
#endif
	if
	:: atomic { WHOLE(obj) && tx[me] == NONE -> tx[me] = OPEN; LOOK_NOW }
	:: atomic { !WHOLE(obj) -> stop(); goto idle }
	DIES
	fi;
	if
	:: atomic { tx[me] == DEAD -> end_tx(me, NONE); stop(); goto idle }
#ifdef NO_LOCK
	:: atomic { tx[me] != DEAD -> skip }
#else
	:: atomic { tx[me] != DEAD && lock == 0 -> lock = me + 1 }
	:: atomic { tx[me] != DEAD && lock != 0 -> end_tx(me, NONE); stop(); goto twin_at_work }
#endif
	DIES
	fi;
#ifndef NO_RESOLVE_FENCE
	if /* the fence, under the lock: an attempt that was overtaken may not decide */
	:: atomic { CAS(state == deleting) -> skip }
	:: atomic { !CAS(state == deleting) -> end_tx(me, NONE); stop(); goto idle }
	DIES
	fi;
#endif
	if /* is all still there? */
	:: atomic { tx[me] == DEAD -> end_tx(me, NONE); stop(); goto idle }
	:: atomic { tx[me] != DEAD && ALL_THERE -> end_tx(me, NONE); goto still_there }
	:: atomic { tx[me] != DEAD && !ALL_THERE -> skip }
	DIES
	fi;
	if /* look the object's keys up */
	:: atomic { tx[me] == DEAD -> end_tx(me, NONE); stop(); goto idle }
	:: atomic { tx[me] != DEAD && (KEYS(SEEN) & KEYS(obj)) -> end_tx(me, NONE); goto partly_gone }
	:: atomic { tx[me] != DEAD && !(KEYS(SEEN) & KEYS(obj)) -> end_tx(me, NONE); goto record }
	DIES
	fi;

still_there: /* Ledger.NotDeleted */
	if
	:: atomic { CAS(state == deleting) -> state = verified; readBack[me] = 1; check(); goto covered }
	:: atomic { !CAS(state == deleting) -> stop(); goto idle }
	DIES
	fi;

partly_gone: /* Ledger.ExtractAgain(superseded) */
	if
	:: atomic { CAS(state == verified || state == deleting) ->
		superseded = superseded | NAME(obj);
		state = planned; object = 0; obj = 0; check(); goto covered }
	:: atomic { !CAS(state == verified || state == deleting) -> stop(); goto idle }
	DIES
	fi;

record: /* Worker.record: the manifest ... */
	if
	:: atomic { true -> manifests = manifests | NAME(obj); check() }
	DIES
	fi;
	if /* ... and Ledger.Archived */
	:: atomic { true ->
		if
		:: CAS(state == deleting) -> state = archived; check()
		:: else
		fi;
		stop(); goto idle
	   }
	DIES
	fi;

done:	skip
}

/* ---- Storage, operators, failovers --------------------------------------- */

#ifdef DAMAGE
/* Damage is possible until an attempt that is alive has read the object back:
 * what happens to storage after that, nothing but storage can prevent. The
 * damaged object is then as good as absent (an operator moves it away). */
active proctype damage() {
end:
	do
	:: atomic { faults > 0 && (state == planned || state == verified) && !readBack[0] && !readBack[1] && (whole & ~superseded) ->
		faults--;
		whole = whole & superseded;
		check()
	   }
	od
}
#endif

#ifdef CANCEL
active proctype operator() {
end:
	atomic { !FINAL -> uncovered = 1 }
}
#endif

#ifdef LEDGER_LOSES_COMMIT
/* The control database loses StartDelete, which it had acknowledged. */
active proctype ledger_loses_commit() {
end:
	atomic { faults > 0 && state == deleting -> faults--; state = verified; check() }
}
#endif

#ifdef FAILOVER
/* The standby follows at any distance. At a failover the commits that it has not
 * got are lost, and rows that we deleted in them are back. All connections break;
 * an answer to COMMIT may have got through before. */
active proctype standby() {
end:
	do
	:: atomic { failovers < FAILOVER && (standbyTable != table || standbyByUs != byUs || standbyWritten != written) ->
		standbyTable = table;
		standbyByUs = byUs;
		standbyWritten = written
	   }
	:: atomic { failovers < FAILOVER ->
		failovers++;
		timeline++;
		table = standbyTable;
		byUs = standbyByUs;
		written = standbyWritten;
		mutLock = 0;
		if
		:: tx[0] >= OPEN && tx[0] <= SENT -> end_tx(0, DEAD)
		:: else
		fi;
		if
		:: tx[1] >= OPEN && tx[1] <= SENT -> end_tx(1, DEAD)
		:: else
		fi;
		if /* nobody follows the last one */
		:: failovers == FAILOVER -> standbyTable = 0; standbyByUs = 0; standbyWritten = 0
		:: else
		fi;
		check()
	   }
	od
}
#endif

init {
	atomic { run worker(0); run worker(1) }
}
