"""A certificate for finite codes that holds for every attacker, of any capacity. Proof: docs/certificate.md."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from efface.errors import AuditError, Problems, expected

SHOWN = 5
"""Ids quoted in an error."""


@dataclass(frozen=True)
class Certificate:
    """With the stated confidence, no attacker who sees the code alone guesses z more often than a bound, either of two.

    Attributes:
        bound: Upper bound of A* = Σ_c max_z p(c,z), a fraction: ``empirical`` + sqrt(ln(1/δ)/(2n)), at most 1.
        empirical: Â = Σ_c max_z n_cz / n, a fraction.
        n: People it rests on, none used in fitting.
        n_codes: Different codes that occur among them.
        confidence: 1 − δ, over the draw of the people.
        tighter: The exact binomial upper bound, never above ``bound``: the one that is quoted.
        checked: Whether the ids of both sides were given and no person was on both; else it is the caller's word.

    Example:
        >>> certify([0, 0, 1, 1] * 1000, [0, 1, 0, 1] * 1000).describe()[:60]
        'Certified: no attacker can exceed 0.514 with 95 % confidence'
    """

    bound: float
    empirical: float
    n: int
    n_codes: int
    confidence: float
    tighter: float = 1.0
    checked: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the sentence included."""
        return {**asdict(self), "description": self.describe()}

    def describe(self) -> str:
        """Return the claim with its assumptions."""
        percent = f"{100 * self.confidence:.6g}"
        ids = "" if self.checked else " (stated by the caller, not checked)"
        quoted = _up(min(self.bound, self.tighter))
        return (
            f"Certified: no attacker can exceed {quoted} with {percent} % confidence, whatever it computes, "
            f"under these assumptions: the people are drawn independently from one population, each has one "
            f"deterministic code, the attacker sees the code alone, and none of the {self.n} people counted was used "
            f"in fitting the encoder, the codes or anything else{ids}. On these people the best guess for each of the "
            f"{self.n_codes} codes that occur is right for {self.empirical:.3f}; McDiarmid's bound, simpler "
            f"and looser, is {_up(self.bound)}."
        )


@dataclass(frozen=True)
class Holdout:
    """Who is counted, and who was used in fitting: any hashable ids, or row numbers of one data set.

    Attributes:
        people: ``[n]`` id of each person counted, in the order of the codes.
        fitted: Ids of all people used to fit anything: train, validation, whoever chose the codes.

    Example:
        >>> Holdout(people=[7, 8, 9], fitted=[1, 2, 8]).problems(3)
        ['1 of the people counted were used in fitting: 8. Certify on people that nothing was fitted on.']
    """

    people: ArrayLike
    fitted: ArrayLike

    def problems(self, n: int) -> list[str]:
        """Return what is wrong with these people as the basis of a certificate for n codes."""
        people, fitted = np.asarray(self.people).ravel(), np.asarray(self.fitted).ravel()
        found = []
        if len(people) != n:
            found.append(expected("people", f"one id for each of the {n} codes", f"{len(people)} ids"))
        if (
            len(fitted)
            and people.dtype.kind != fitted.dtype.kind
            and {people.dtype.kind, fitted.dtype.kind} != set("iu")
        ):
            found.append(expected("fitted", f"ids of the type of `people` ({people.dtype})", str(fitted.dtype)))
            return found
        ids, counts = np.unique(people, return_counts=True)
        if (counts > 1).any():
            found.append(
                f"{int((counts > 1).sum())} people are counted more than once: {_some(ids[counts > 1])}. "
                "The bound is for independent people: keep one code of each."
            )
        both = np.intersect1d(ids, fitted)
        if len(both):
            found.append(
                f"{len(both)} of the people counted were used in fitting: {_some(both)}. "
                "Certify on people that nothing was fitted on."
            )
        return found


def certify(
    codes: ArrayLike,
    z: ArrayLike,
    confidence: float = 0.95,
    *,
    people: ArrayLike | None = None,
    fitted: ArrayLike | None = None,
    holdout: Holdout | None = None,
) -> Certificate:
    """Bound what any attacker can guess of z from a finite code.

    Source: THEORY, "A certificate that holds for every attacker"; proof in docs/certificate.md.

    Args:
        codes: ``[n]`` or ``[n, k]`` integers: the released code of each person.
        z: ``[n]`` the attribute; people whose z is -1 (missing) are left out.
        confidence: 1 − δ, between 0 and 1.
        people: ``[n]`` id of each person; needed for the overlap with ``fitted`` to be checked.
        fitted: Ids of everybody who was used to fit anything.
        holdout: Both of the former as one object.

    Raises:
        AuditError: The codes are no finite codes, shapes or ids don't fit, a person is counted twice, or a person was
            used in fitting. All problems at once.

    Example:
        >>> found = certify([0, 1] * 2500, [0, 1, 1, 0] * 1250, people=range(5000), fitted=range(5000, 9000))
        >>> round(found.empirical, 3), round(found.bound - found.empirical, 4), found.checked
        (0.5, 0.0173, True)
    """
    code_table, labels = np.asarray(codes), np.asarray(z)
    problems = Problems(AuditError)
    _check(code_table, labels, confidence, problems)
    given = _holdout(people, fitted, holdout, problems)
    if given is not None and labels.ndim == 1:
        for text in given.problems(len(labels)):
            problems.add(text)
    problems.raise_if_any()
    known = labels != -1 if labels.dtype.kind in "iu" else np.ones(len(labels), bool)
    counts = code_counts(code_table[known], labels[known])
    empirical, n = float(counts.max(1).sum() / counts.sum()), int(counts.sum())
    return Certificate(
        bound=mcdiarmid_bound(empirical, n, confidence),
        empirical=empirical,
        n=n,
        n_codes=len(counts),
        confidence=confidence,
        tighter=binomial_bound(empirical, n, confidence),
        checked=given is not None and np.size(given.fitted) > 0,
    )


def code_counts(codes: np.ndarray, z: np.ndarray) -> Int[np.ndarray, "M A"]:
    """Return n_cz: how often each code (a row, or a number) that occurs meets each class that occurs.

    Example:
        >>> code_counts(np.array([[0, 1], [0, 1], [2, 2]]), np.array([5, 6, 6])).tolist()
        [[1, 1], [0, 1]]
    """
    code = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    label = np.unique(z, return_inverse=True)[1].reshape(-1)
    shape = (int(code.max()) + 1, int(label.max()) + 1)
    return np.bincount(code * shape[1] + label, minlength=shape[0] * shape[1]).reshape(shape)


def mcdiarmid_bound(empirical: float, n: int, confidence: float) -> float:
    """Return Â + sqrt(ln(1/δ)/(2n)), at most 1.

    Source: McDiarmid (1989); E[Â] ≥ A*, and one pair moves Â by at most 1/n.

    Example:
        >>> round(mcdiarmid_bound(0.3, 5000, 0.95), 4)
        0.3173
    """
    return min(1.0, empirical + math.sqrt(-math.log1p(-confidence) / (2 * n)))


def binomial_bound(empirical: float, n: int, confidence: float) -> float:
    """Return the upper bound of Clopper and Pearson (1934) at nÂ right guesses: p with P(Bin(n, p) ≤ nÂ) = δ.

    Valid for A*: nÂ is at least the number of people that the one best rule, whatever it is, guesses right, which is
    Bin(n, A*); and the bound rises with the count. Never above ``mcdiarmid_bound``.

    Example:
        >>> round(binomial_bound(0.3, 5000, 0.95), 4), binomial_bound(1.0, 10, 0.95)
        (0.3108, 1.0)
    """
    from scipy.stats import beta

    right = round(empirical * n)
    return 1.0 if right >= n else float(beta.ppf(confidence, right + 1, n - right))


def exact_accuracy(joint: Float[np.ndarray, "M A"]) -> float:
    """Return A* = Σ_c max_z p(c,z) of a known distribution: what the best of all attackers reaches.

    Example:
        >>> exact_accuracy(np.array([[0.4, 0.1], [0.2, 0.3]]))
        0.7
    """
    return float(joint.max(1).sum())


def _check(codes: np.ndarray, z: np.ndarray, confidence: float, problems: Problems) -> None:
    if codes.dtype.kind not in "iub":
        hint = "A continuous release gets no certificate; quantise it first."
        problems.add(expected("codes", "integers [n] or [n, k]", f"{codes.dtype} {codes.shape}", hint))
    if codes.ndim not in (1, 2) or (codes.ndim == 2 and codes.shape[1] == 0):
        problems.add(expected("codes", "of shape [n] or [n, k]", codes.shape))
    if z.ndim != 1 or (codes.ndim and len(z) != len(codes)):
        problems.add(expected("z", f"one class for each of the {len(codes) if codes.ndim else 0} codes", z.shape))
    if z.dtype.kind not in "iubUSO":
        problems.add(expected("z", "classes (integers or names)", str(z.dtype)))
    elif not len(z.ravel()) or (z.dtype.kind in "iu" and not (z != -1).any()):
        problems.add(expected("z", "the class of at least one person", "nobody's"))
    if not 0 < confidence < 1:
        problems.add(expected("confidence", "between 0 and 1, both excluded", confidence))


def _holdout(
    people: ArrayLike | None, fitted: ArrayLike | None, holdout: Holdout | None, problems: Problems
) -> Holdout | None:
    """One holdout of the two ways to give it; None if nothing can be checked."""
    if holdout is not None:
        if people is not None or fitted is not None:
            problems.add("Give `holdout`, or `people` and `fitted`, not both.")
        return holdout
    if fitted is None:
        return None if people is None else Holdout(people, np.asarray(people)[:0])
    if people is None:
        problems.add("`fitted` is given without `people`: who the codes belong to can't be compared with it.")
        return None
    return Holdout(people, fitted)


def _some(ids: np.ndarray) -> str:
    more = f", … ({len(ids)} in all)" if len(ids) > SHOWN else ""
    return ", ".join(str(one) for one in ids[:SHOWN].tolist()) + more


def _up(value: float) -> str:
    """Three decimals, rounded up: a bound must not shrink in print."""
    return f"{min(1.0, math.ceil(value * 1000 - 1e-9) / 1000):.3f}"
