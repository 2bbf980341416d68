"""The public names, each imported from its module when it is first used."""

from .analysis.knockout import knock_out_blocks as knock_out_blocks
from .analysis.pruning import prune_se as prune_se
from .analysis.recording import Recording as Recording
from .analysis.recording import record_excitations as record_excitations
from .analysis.report import explain as explain
from .costs import Cost as Cost
from .costs import cost as cost
from .data.config import DataConfig as DataConfig
from .data.preprocessing import Preprocessing as Preprocessing
from .data.preprocessing import create_transform as create_transform
from .errors import SenetError as SenetError
from .evaluation.accuracy import Evaluation as Evaluation
from .evaluation.accuracy import evaluate as evaluate
from .evaluation.prediction import predict as predict
from .factory import create_model as create_model
from .factory import from_pretrained as from_pretrained
from .models.catalog import Card as Card
from .models.catalog import list_models as list_models
from .models.catalog import model_card as model_card
from .models.catalog import register_model as register_model
from .models.config import ModelConfig as ModelConfig
from .nn.block import SEBlock as SEBlock
from .nn.block import SEOptions as SEOptions
from .nn.block import register_excitation as register_excitation
from .nn.excitation import ExcitationBlock as ExcitationBlock
from .nn.tail import ResidualTail as ResidualTail
from .ops.gates import Gate as Gate
from .ops.gates import register_gate as register_gate
from .optimization.fusion import fuse as fuse
from .optimization.fusion import unfuse as unfuse
from .optimization.inference import optimize_for_inference as optimize_for_inference
from .recipes import register_recipe as register_recipe
from .surgery.insertion import InsertionReport as InsertionReport
from .surgery.insertion import SiteReport as SiteReport
from .surgery.insertion import find_sites as find_sites
from .surgery.insertion import insert_se as insert_se
from .surgery.insertion import remove_se as remove_se
from .training.config import TrainConfig as TrainConfig
from .training.loop import resume as resume
from .training.loop import train as train
from .weights.folder import push_to_hub as push_to_hub
from .weights.folder import save_pretrained as save_pretrained
from .weights.loading import LoadReport as LoadReport
from .weights.loading import load_weights as load_weights

__version__: str
