"""Made by tools/make_stubs.py; do not edit."""

from typing import Literal

from anndata import AnnData

from celbo import embed as embed
from celbo import errors as errors
from celbo import evaluate as evaluate
from celbo import plots as plots
from celbo.data import datasets as datasets
from celbo.data.check import check as check
from celbo.data.decimals import round_counts as round_counts
from celbo.data.genes import filter_cells as filter_cells
from celbo.data.genes import select_genes as select_genes
from celbo.data.read import read as read
from celbo.models.autoencoder import Autoencoder as _Autoencoder
from celbo.models.autoencoder import AutoencoderConfig as AutoencoderConfig
from celbo.models.autoimpute import AutoImpute as _AutoImpute
from celbo.models.autoimpute import AutoImputeConfig as AutoImputeConfig
from celbo.models.dca import AEType
from celbo.models.dca import DCA as _DCA
from celbo.models.dca import DCAConfig as DCAConfig
from celbo.models.hpf import HPF as _HPF
from celbo.models.hpf import HPFConfig as HPFConfig
from celbo.models.ldvae import LDVAE as _LDVAE
from celbo.models.ldvae import LDVAEConfig as LDVAEConfig
from celbo.models.scvae import LikelihoodName
from celbo.models.scvae import SCVAE as _SCVAE
from celbo.models.scvae import SCVAEConfig as SCVAEConfig
from celbo.models.scvi import SCVI as _SCVI
from celbo.models.scvi import SCVIConfig as SCVIConfig
from celbo.models.scvi import Where
from celbo.models.scvis import SCVIS as _SCVIS
from celbo.models.scvis import SCVISConfig as SCVISConfig
from celbo.models.store import load as load
from celbo.models.vae import VAE as _VAE
from celbo.models.vae import VAEConfig as VAEConfig
from celbo.models.vasc import VASC as _VASC
from celbo.models.vasc import VASCConfig as VASCConfig
from celbo.nn.mlp import Activation
from celbo.nn.transforms import TransformName
from celbo.pipeline import run as run
from celbo.pipeline.compare import compare as compare
from celbo.pipeline.denoise import denoise as denoise
from celbo.pipeline.denoise import denoising_scores as denoising_scores
from celbo.results import to_rank_genes_groups as to_rank_genes_groups
from celbo.training.plan import TrainConfig as TrainConfig

__version__: str

class AutoImpute(_AutoImpute):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: AutoImputeConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        n_hidden: int = 2000,
        penalty: float = 1.0,
        init_std: float = 0.02,
        init_bias_std: float = 0.0,
        seed: int = 0,
    ) -> None: ...

class Autoencoder(_Autoencoder):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: AutoencoderConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        n_latent: int = 10,
        n_hidden: tuple[int, ...] | None = None,
        activation: Activation = "relu",
        linear: bool = False,
        batch_norm: bool = True,
        dropout_rate: float = 0.0,
        transform: TransformName = "log-normalised",
        seed: int = 0,
    ) -> None: ...

class DCA(_DCA):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: DCAConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        ae_type: AEType = "nb-conddisp",
        n_hidden: tuple[int, ...] = (64, 32, 64),
        activation: Activation = "relu",
        batch_norm: bool = True,
        dropout_rate: float = 0.0,
        input_dropout_rate: float = 0.0,
        encoder_input: Literal["scaled", "log-normalised", "log1p", "counts"] = "scaled",
        size_factors: bool = True,
        latent: Literal["linear", "activated"] = "linear",
        ridge: float = 0.0,
        shared_pi: bool = False,
        initialisation: Literal["data", "glorot"] = "data",
        seed: int = 0,
    ) -> None: ...

class HPF(_HPF):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: HPFConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        n_components: int = 10,
        a: float | None = 0.3,
        c: float | None = 0.3,
        a_prime: float = 1.0,
        b_prime: float | None = None,
        c_prime: float = 1.0,
        d_prime: float | None = None,
        initialisation: Literal["nmf", "dirichlet"] = "nmf",
        phi: Literal["each-side", "once"] = "each-side",
        stopping: Literal["elbo", "nonzero-loss"] = "elbo",
        tolerance: float = 1e-05,
        check_every: int = 10,
        min_epochs: int = 30,
        better_than_n_ago: int = 5,
        n_trials: int = 1,
        seed: int = 0,
    ) -> None: ...

class LDVAE(_LDVAE):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: LDVAEConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        n_latent: int = 10,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        likelihood: Literal["nb", "zinb", "poisson"] = "nb",
        dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene",
        library: Literal["observed", "latent"] = "observed",
        latent_distribution: Literal["normal", "logistic-normal"] = "normal",
        scale_covariates: bool = True,
        loadings_batch_norm: bool = False,
        initialisation: Literal["data", "uniform"] = "data",
        seed: int = 0,
    ) -> None: ...

class SCVAE(_SCVAE):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: SCVAEConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        prior: Literal["normal", "gaussian-mixture"] = "normal",
        n_components: int | None = None,
        likelihood: LikelihoodName = "nb",
        n_classes: int = 0,
        n_latent: int = 10,
        n_hidden: tuple[int, ...] = (100,),
        dropout_rate: float = 0.1,
        encoder_input: Literal["log-normalised", "log1p", "counts"] = "log-normalised",
        encode_library: bool = True,
        library: Literal["decoded", "observed"] = "decoded",
        dispersion: Literal["gene", "gene-cell"] = "gene",
        n_samples: int = 1,
        n_importance_samples: int = 1,
        prior_probabilities: Literal["uniform", "labels", "learn"] = "uniform",
        free_nats: float = 0.0,
        start: Literal["k-means", "random"] = "k-means",
        initialisation: Literal["data", "random"] = "data",
        batch_norm_decay: float = 0.9,
        clipped: bool = False,
        seed: int = 0,
    ) -> None: ...

class SCVI(_SCVI):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: SCVIConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        n_latent: int = 10,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        likelihood: Literal["nb", "zinb", "poisson", "normal"] = "nb",
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
        library: Literal["observed", "latent"] = "observed",
        latent_distribution: Literal["normal", "logistic-normal"] = "normal",
        batch_norm: Where = "both",
        layer_norm: Where = "none",
        batch_representation: Literal["one-hot", "embedding"] = "one-hot",
        n_batch_embedding: int = 5,
        encode_covariates: bool = False,
        inject_covariates: Literal["first", "every", "every-and-output"] = "every",
        scale_covariates: bool = True,
        dropout_position: Literal["after", "before"] = "after",
        variance_floor: float = 0.0001,
        initialisation: Literal["data", "uniform", "truncated-normal"] = "data",
        seed: int = 0,
    ) -> None: ...

class SCVIS(_SCVIS):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: SCVISConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        n_latent: int = 2,
        n_components: int = 100,
        perplexity: float = 10.0,
        perplexity_convention: Literal["nats", "scvis"] = "nats",
        encoder_widths: tuple[int, ...] = (128, 64, 32),
        decoder_widths: tuple[int, ...] = (32, 32, 32, 64, 128),
        dropout_rate: float = 0.1,
        initialisation: Literal["data", "truncated-normal"] = "data",
        seed: int = 0,
    ) -> None: ...

class VAE(_VAE):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: VAEConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        n_latent: int = 10,
        n_hidden: tuple[int, ...] = (128,),
        activation: Activation = "relu",
        batch_norm: bool = True,
        dropout_rate: float = 0.1,
        likelihood: Literal["gaussian", "nb", "zinb", "poisson", "zip", "lognormal", "lomax"] = "nb",
        transform: TransformName = "log-normalised",
        learn_variance: bool = True,
        beta: float = 1.0,
        variance_floor: float = 0.0001,
        seed: int = 0,
    ) -> None: ...

class VASC(_VASC):
    def __init__(
        self,
        adata: AnnData,
        *,
        config: VASCConfig | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: tuple[str, ...] = (),
        continuous_covariate_keys: tuple[str, ...] = (),
        round_counts: bool = False,
        n_latent: int = 2,
        encoder_widths: tuple[int, ...] = (512, 128, 32),
        decoder_widths: tuple[int, ...] = (32, 128, 512),
        dropout_rate: float = 0.5,
        variance: Literal["learned", "constant", "floor"] = "learned",
        temperature: float = 0.5,
        annealing: bool = False,
        noisy_prediction: bool = False,
        seed: int = 0,
    ) -> None: ...
