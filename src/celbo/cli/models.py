"""The options of every model without what needs torch. Made by tools/make_options.py; do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

__all__ = ["OPTIONS", "PLANS"]


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """Options of Autoencoder."""

    options_of: ClassVar[str] = "autoencoder"
    n_latent: int = 10
    """Dimensions of the code."""
    n_hidden: tuple[int, ...] | None = None
    """Widths of the encoder's hidden layers, mirrored in the decoder; () is one linear map each way. None is
    (128,), and () with `linear`."""
    activation: Literal["relu", "elu", "leaky-relu", "sigmoid", "tanh", "linear"] = "relu"
    """Non-linearity of the hidden layers."""
    linear: bool = False
    """Linear maps only: no non-linearity, no batch norm, no dropout."""
    batch_norm: bool = True
    """Whether hidden layers are batch-normalised."""
    dropout_rate: float = 0.0
    """Dropout of the encoder's hidden layers."""
    transform: Literal["counts", "log1p", "log-normalised", "scaled", "log2-normalised", "log2-max"] = "log-normalised"
    """What is reconstructed of the counts, and what the encoder sees."""


@dataclass(frozen=True, kw_only=True)
class AutoImputeOptions:
    """Options of AutoImpute."""

    options_of: ClassVar[str] = "autoimpute"
    n_hidden: int = 2000
    """Units of the hidden layer."""
    penalty: float = 1.0
    """lambda, the weight of the squares of both weight matrices."""
    init_std: float = 0.02
    """Standard deviation of the first weights."""
    init_bias_std: float = 0.0
    """Standard deviation of the first biases."""


@dataclass(frozen=True, kw_only=True)
class DCAOptions:
    """Options of DCA."""

    options_of: ClassVar[str] = "dca"
    ae_type: Literal[
        "normal",
        "poisson",
        "nb",
        "nb-conddisp",
        "nb-shared",
        "nb-fork",
        "zinb",
        "zinb-conddisp",
        "zinb-shared",
        "zinb-fork",
        "zinb-elempi",
    ] = "nb-conddisp"
    """What the decoder says about the counts; see `DCA`."""
    n_hidden: tuple[int, ...] = (64, 32, 64)
    """Units of the hidden layers; the middle one is the code."""
    activation: Literal["relu", "elu", "leaky-relu", "sigmoid", "tanh", "linear"] = "relu"
    """Activation of the hidden layers."""
    batch_norm: bool = True
    """Whether hidden layers are batch-normalised (a shift and no factor, as in the original)."""
    dropout_rate: float = 0.0
    """Dropout after each hidden layer."""
    input_dropout_rate: float = 0.0
    """Dropout of the input."""
    encoder_input: Literal["scaled", "log-normalised", "log1p", "counts"] = "scaled"
    """What the encoder sees; "scaled" is the z-scores of log-normalised counts."""
    size_factors: bool = True
    """Whether means are relative to the size factor of the cell."""
    latent: Literal["linear", "activated"] = "linear"
    """The code before batch norm and activation, as in the paper, or after them."""
    ridge: float = 0.0
    """Weight of the sum of squared dropout probabilities of a cell."""
    shared_pi: bool = False
    """For "zinb-elempi": one slope and one intercept for all genes."""
    initialisation: Literal["data", "glorot"] = "data"
    """Start at the mean expression, or with all biases zero as the original does."""


@dataclass(frozen=True, kw_only=True)
class HPFOptions:
    """Options of HPF."""

    options_of: ClassVar[str] = "hpf"
    n_components: int = 10
    """Factors."""
    a: float | None = 0.3
    """Shape of the prior of the cells' loadings theta; below 1 is sparse. None is 1 / sqrt(n_components)."""
    c: float | None = 0.3
    """Shape of the prior of the genes' loadings beta; None is 1 / sqrt(n_components)."""
    a_prime: float = 1.0
    """Shape of the prior of the cells' capacities."""
    b_prime: float | None = None
    """Rate of that prior; None is a_prime times mean over variance of the cells' totals."""
    c_prime: float = 1.0
    """Shape of the prior of the genes' capacities."""
    d_prime: float | None = None
    """Rate of that prior; None is c_prime times mean over variance of the genes' totals (at least b_prime /
    1000)."""
    initialisation: Literal["nmf", "dirichlet"] = "nmf"
    """Start at a short factorisation of the square roots of the counts, or at random (scHPF)."""
    phi: Literal["each-side", "once"] = "each-side"
    """Allocate the counts to factors before each side's update (fewer sweeps), or once a sweep (scHPF)."""
    stopping: Literal["elbo", "nonzero-loss"] = "elbo"
    """Stop when the bound stops changing, or when the loss of the nonzero entries does (scHPF)."""
    tolerance: float = 1e-05
    """Relative change between two checks below which the fit has converged, twice in a row."""
    check_every: int = 10
    """Sweeps between two checks."""
    min_epochs: int = 30
    """Fewest sweeps before the fit may stop."""
    better_than_n_ago: int = 5
    """With "nonzero-loss": also stop where the loss is worse than at the last check and this many checks ago."""
    n_trials: int = 1
    """Fits from different starts, of which the one with the best bound (loss) is kept."""


@dataclass(frozen=True, kw_only=True)
class LDVAEOptions:
    """Options of LDVAE."""

    options_of: ClassVar[str] = "ldvae"
    n_latent: int = 10
    """Dimensions of the latent space: factors."""
    n_hidden: int = 128
    """Units of each hidden layer of the encoder."""
    n_layers: int = 1
    """Hidden layers of the encoder."""
    dropout_rate: float = 0.1
    """Dropout of the encoder's hidden layers."""
    likelihood: Literal["nb", "zinb", "poisson"] = "nb"
    """Distribution of the counts given the latent state."""
    dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene"
    """What the inverse dispersion depends on."""
    library: Literal["observed", "latent"] = "observed"
    """Library size: each cell's total, or a latent variable with a log-normal prior for each batch."""
    latent_distribution: Literal["normal", "logistic-normal"] = "normal"
    """The decoder sees z, or softmax(z): shares of topics."""
    scale_covariates: bool = True
    """Centre and scale continuous covariates by the training cells; False takes them in their own units."""
    loadings_batch_norm: bool = False
    """Batch norm after the linear map, as in scvi-tools: the scale of loadings then depends on running
    variances."""
    initialisation: Literal["data", "uniform"] = "data"
    """Start the output at the mean expression, or at random."""


@dataclass(frozen=True, kw_only=True)
class SCVAEOptions:
    """Options of SCVAE."""

    options_of: ClassVar[str] = "scvae"
    prior: Literal["normal", "gaussian-mixture"] = "normal"
    """Prior of z: one standard normal (VAE), or a mixture whose components are clusters (GMVAE)."""
    n_components: int | None = None
    """Components of the mixture; None is the number of labels where labels_key is given, else 10."""
    likelihood: Literal[
        "nb", "zinb", "poisson", "constrained-poisson", "zip", "bernoulli", "normal", "lognormal", "lomax"
    ] = "nb"
    """Distribution of the counts given z; "gaussian" is "normal", of positive mean (the original's may be
    negative)."""
    n_classes: int = 0
    """Piecewise categorical: counts below this have a probability each, the likelihood describes the rest; 0 is
    off."""
    n_latent: int = 10
    """Dimensions of the latent space."""
    n_hidden: tuple[int, ...] = (100,)
    """Units of each hidden layer of the encoders; the decoder has them in reverse."""
    dropout_rate: float = 0.1
    """Dropout of the hidden layers."""
    encoder_input: Literal["log-normalised", "log1p", "counts"] = "log-normalised"
    """What the encoders see: log(1 + x m / l) with m the median of the totals l, log(1 + x), or x."""
    encode_library: bool = True
    """Whether they also see log l, standardised, as depth is for z to carry."""
    library: Literal["decoded", "observed"] = "decoded"
    """Whether the decoder gives each cell's expected counts, depth and all, or shares of its observed total; always
    the latter for the constrained Poisson."""
    dispersion: Literal["gene", "gene-cell"] = "gene"
    """What the dispersion depends on; "gene-cell" is scVAE's, another output of the decoder."""
    n_samples: int = 1
    """Monte Carlo samples of z for the reconstruction."""
    n_importance_samples: int = 1
    """Above 1, the importance-weighted bound of so many samples is maximised (IWAE)."""
    prior_probabilities: Literal["uniform", "labels", "learn"] = "uniform"
    """p(y) of the mixture: uniform, the shares of the labels among the training cells, or learnt."""
    free_nats: float = 0.0
    """Share of log K below which KL(q(y | x) || p(y)), averaged over a minibatch, is not reduced further."""
    start: Literal["k-means", "random"] = "k-means"
    """Where the clusters start: at k-means of principal components, to which q(y | x) is pulled while the KL warms
    up, or at random as in the original, where most components end empty."""
    initialisation: Literal["data", "random"] = "data"
    """Start the output at the mean expression, or at random."""
    batch_norm_decay: float = 0.9
    """Decay of the running moments of batch norm, which has a shift and no factor."""
    clipped: bool = False
    """Clip the decoder's outputs to [-10, 10] and log sigma to [-3, 3], as the original does."""


@dataclass(frozen=True, kw_only=True)
class SCVIOptions:
    """Options of SCVI."""

    options_of: ClassVar[str] = "scvi"
    n_latent: int = 10
    """Dimensions of the latent space."""
    n_hidden: int = 128
    """Units of each hidden layer."""
    n_layers: int = 1
    """Hidden layers of the encoder and of the decoder."""
    dropout_rate: float = 0.1
    """Dropout of the encoder's hidden layers."""
    likelihood: Literal["nb", "zinb", "poisson", "normal"] = "nb"
    """Distribution of the counts given the latent state."""
    dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene"
    """What the inverse dispersion (for normal: the standard deviation) depends on."""
    library: Literal["observed", "latent"] = "observed"
    """Library size: each cell's total, or a latent variable with a log-normal prior for each batch."""
    latent_distribution: Literal["normal", "logistic-normal"] = "normal"
    """The decoder sees z, or softmax(z)."""
    batch_norm: Literal["both", "encoder", "decoder", "none"] = "both"
    """Where hidden layers are batch-normalised."""
    layer_norm: Literal["both", "encoder", "decoder", "none"] = "none"
    """Where hidden layers are layer-normalised."""
    batch_representation: Literal["one-hot", "embedding"] = "one-hot"
    """The batch as a row of a table at each layer, or as a learned vector beside the decoder's input."""
    n_batch_embedding: int = 5
    """Length of that vector."""
    encode_covariates: bool = False
    """Whether the encoder sees the batch and the covariates too."""
    inject_covariates: Literal["first", "every", "every-and-output"] = "every"
    """At which layers the categorical covariates enter."""
    scale_covariates: bool = True
    """Centre and scale continuous covariates by the training cells; False takes them in their own units."""
    dropout_position: Literal["after", "before"] = "after"
    """Dropout after each hidden layer, or before it (on the input too, as in the code of 2018)."""
    variance_floor: float = 0.0001
    """Added to the variance of q."""
    initialisation: Literal["data", "uniform", "truncated-normal"] = "data"
    """Start the output at the mean expression, or at random as scvi-tools or as the code of 2018 do."""


@dataclass(frozen=True, kw_only=True)
class SCVISOptions:
    """Options of SCVIS."""

    options_of: ClassVar[str] = "scvis"
    n_latent: int = 2
    """Dimensions of the map."""
    n_components: int = 100
    """Principal components that the network sees; all genes' where there are fewer genes."""
    perplexity: float = 10.0
    """Neighbours that a cell has within a minibatch, for the t-SNE term."""
    perplexity_convention: Literal["nats", "scvis"] = "nats"
    """What the perplexity is. In "nats" it is the exponential of the entropy in nats. The original compares an
    entropy in nats with the binary logarithm of the perplexity, so that asking for 10 gives 27.7 and for 30 gives
    135.2."""
    encoder_widths: tuple[int, ...] = (128, 64, 32)
    """Units of the hidden layers of the encoder."""
    decoder_widths: tuple[int, ...] = (32, 32, 32, 64, 128)
    """Units of the hidden layers of the decoder."""
    dropout_rate: float = 0.1
    """Dropout of the weights that give the encoder's mean."""
    initialisation: Literal["data", "truncated-normal"] = "data"
    """Start the decoder at the spread of each component, or as the original does, where every component has about
    the spread of the largest."""


@dataclass(frozen=True, kw_only=True)
class VAEOptions:
    """Options of VAE."""

    options_of: ClassVar[str] = "vae"
    n_latent: int = 10
    """Dimensions of the latent space."""
    n_hidden: tuple[int, ...] = (128,)
    """Widths of the encoder's hidden layers, mirrored in the decoder; () is a linear map each way."""
    activation: Literal["relu", "elu", "leaky-relu", "sigmoid", "tanh", "linear"] = "relu"
    """Non-linearity of the hidden layers."""
    batch_norm: bool = True
    """Whether hidden layers are batch-normalised."""
    dropout_rate: float = 0.1
    """Dropout of the encoder's hidden layers."""
    likelihood: Literal["gaussian", "nb", "zinb", "poisson", "zip", "lognormal", "lomax"] = "nb"
    """Distribution given the latent state: of the counts, or "gaussian" of the transformed counts."""
    transform: Literal["counts", "log1p", "log-normalised", "scaled", "log2-normalised", "log2-max"] = "log-normalised"
    """What the encoder sees of the counts, and what the Gaussian is a distribution of."""
    learn_variance: bool = True
    """Whether the Gaussian learns a standard deviation for each gene; False sets all to 1: half the squared
    error."""
    beta: float = 1.0
    """Weight of the divergence from the prior: 0 trains on the reconstruction alone."""
    variance_floor: float = 0.0001
    """Added to the variance of q."""


@dataclass(frozen=True, kw_only=True)
class VASCOptions:
    """Options of VASC."""

    options_of: ClassVar[str] = "vasc"
    n_latent: int = 2
    """Dimensions of the latent space."""
    encoder_widths: tuple[int, ...] = (512, 128, 32)
    """Units of the encoder's layers: the first is linear, the others are rectified."""
    decoder_widths: tuple[int, ...] = (32, 128, 512)
    """Units of the decoder's rectified layers."""
    dropout_rate: float = 0.5
    """Dropout of the input."""
    variance: Literal["learned", "constant", "floor"] = "learned"
    """Variance of q(z | x): learned freely, the constant e, or exp(softplus(.)), which cannot fall below 1."""
    temperature: float = 0.5
    """Temperature tau of the Gumbel softmax. At 0.5, where the paper's annealing ends, cell types separate better
    than at its 1: the kept share is nearer to 0 or 1, as drop-outs are."""
    annealing: bool = False
    """Whether every 100 epochs the temperature is set to exp(-0.0003 epoch) of its start, or to 0.5 if that is
    more."""
    noisy_prediction: bool = False
    """Whether dropouts are also drawn outside training; otherwise their expectation p is used."""


OPTIONS: dict[str, type[Any]] = {
    "autoencoder": AutoencoderOptions,
    "autoimpute": AutoImputeOptions,
    "dca": DCAOptions,
    "hpf": HPFOptions,
    "ldvae": LDVAEOptions,
    "scvae": SCVAEOptions,
    "scvi": SCVIOptions,
    "scvis": SCVISOptions,
    "vae": VAEOptions,
    "vasc": VASCOptions,
}
"""By the model's name on the command line."""
PLANS: dict[str, dict[str, Any]] = {
    "autoencoder": {},
    "autoimpute": {},
    "dca": {"weight_decay": 0.3},
    "hpf": {},
    "ldvae": {},
    "scvae": {"weight_decay": 1.0, "kl_warmup": 0.3, "kl_warmup_terms": ("z", "y", "free_nats"), "patience": 20},
    "scvi": {},
    "scvis": {},
    "vae": {},
    "vasc": {},
}
"""In what the default plan of a model differs from that of celbo."""
